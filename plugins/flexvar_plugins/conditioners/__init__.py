"""Conditioners: what an image is to be of -> the vectors a model reads."""
