"""The comparison of backbones: equal data, steps, seeds and parameters."""
