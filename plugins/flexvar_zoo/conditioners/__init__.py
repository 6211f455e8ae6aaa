"""Conditioners of other papers."""
