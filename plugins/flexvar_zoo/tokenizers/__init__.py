"""Tokenizers of other papers."""
