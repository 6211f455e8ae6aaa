"""Triton's code, imported where a kernel runs first: the package works without Triton."""
