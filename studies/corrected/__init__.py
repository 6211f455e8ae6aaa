"""Measured by itself; see measure.py."""
