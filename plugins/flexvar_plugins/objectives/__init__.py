"""Objectives: what a prediction model is trained to do."""
