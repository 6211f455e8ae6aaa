"""Benchmarks: what runs how fast, measured against the plain way in the same run."""
