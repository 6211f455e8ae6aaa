"""Stands in for torch-fidelity, which needs a torchvision that fits torch: same call, tiny."""
