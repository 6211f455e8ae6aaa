"""Objectives: what a model is trained to do."""
