"""Pictures and folders made on the fly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

RED, GREEN = (200, 30, 40), (20, 160, 60)


def noise(height: int, width: int, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def folder(root: Path, counts: dict[str, int], size: tuple[int, int] = (40, 50)) -> Path:
    """ROOT/CLASS/number.png with noise, a different one in each file."""
    seed = 0
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            noise(*size, seed=seed).save(root / name / f"{number}.png")
            seed += 1
    return root


def truncated(path: Path) -> Path:
    """A JPEG that stops in the middle."""
    noise(64, 64).save(path, format="JPEG")
    path.write_bytes(path.read_bytes()[:600])
    return path
