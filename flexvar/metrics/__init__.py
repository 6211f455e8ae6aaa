"""Figures: pure functions of pictures, tokens and features."""
