"""Generation: how tokens are drawn, scale by scale."""
