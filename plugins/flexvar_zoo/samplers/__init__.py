"""Samplers of other papers."""
