"""Position embeddings of other papers."""
