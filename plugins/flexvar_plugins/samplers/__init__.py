"""Samplers: how tokens are chosen."""
