"""Position embeddings: where a token stands in its grid."""
