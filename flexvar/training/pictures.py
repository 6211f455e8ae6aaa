"""Grids of pictures for the run directory."""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import Tensor

GAP, ENLARGE_TO = 2, 96


def table(images_RC3HW: Tensor) -> Image.Image:
    """Rows and columns of pictures in [-1,1] as one, on white; small ones are enlarged."""
    rows, columns, _, height, width = images_RC3HW.shape
    scale = max(1, ENLARGE_TO // max(height, width))
    values = (images_RC3HW.clamp(-1, 1) + 1) * 127.5
    pixels = values.round().byte().permute(0, 1, 3, 4, 2).cpu().numpy()
    pixels = pixels.repeat(scale, axis=2).repeat(scale, axis=3)
    height, width = height * scale, width * scale
    sheet = np.full(
        (rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 3), 255, dtype=np.uint8
    )
    for row in range(rows):
        for column in range(columns):
            top, left = row * (height + GAP), column * (width + GAP)
            sheet[top : top + height, left : left + width] = pixels[row, column]
    return Image.fromarray(sheet)
