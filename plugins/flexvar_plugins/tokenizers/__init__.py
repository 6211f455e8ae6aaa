"""Tokenizers: image <-> pyramid of token maps."""
