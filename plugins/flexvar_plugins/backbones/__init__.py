"""Backbones: token embeddings -> features, causal over scales."""
