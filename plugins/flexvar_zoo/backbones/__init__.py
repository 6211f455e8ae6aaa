"""Backbones of other papers."""
