"""Losses of tokenizer training: how far a reconstruction is from its picture."""
