"""Editing: in-painting, out-painting, refinement, by tokens that are given."""
