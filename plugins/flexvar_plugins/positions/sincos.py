"""The 2D sine-cosine pattern that positions start from."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sincos_2d(rows_h: Tensor, columns_w: Tensor, width: int, *, base: float = 10000.0) -> Tensor:
    """(h, w, width): sin of the row in even channels, cos of the column in odd ones.

    rows_h, columns_w: coordinates in cells of the reference table. Channels 2i and 2i+1 have
    the frequency base^(-2i/width) (FlexVAR's code).
    """
    index = torch.arange(0, width, 2, dtype=torch.float32, device=rows_h.device)
    frequency = torch.exp(index * (-math.log(base) / width))
    sine = torch.sin(rows_h[:, None] * frequency)[:, None]
    cosine = torch.cos(columns_w[:, None] * frequency)[None]
    size = (len(rows_h), len(columns_w), len(frequency))
    pattern = torch.stack([sine.expand(size), cosine.expand(size)], dim=-1)
    return pattern.flatten(2)[..., :width]


def centres(count: int, extent: float, device: torch.device | None = None) -> Tensor:
    """Where the middles of ``count`` equal cells lie on an axis of ``extent`` cells, (count,)."""
    cells = torch.arange(count, dtype=torch.float32, device=device)
    return (cells + 0.5) * (extent / count) - 0.5
