"""A 2D sine-cosine position embedding without parameters."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from flexvar.components import Facts, Position
from flexvar.config import ComponentConfig
from flexvar.layout import Layout
from flexvar_plugins.positions.sincos import centres, sincos_2d


class Sinusoidal2dConfig(ComponentConfig):
    """Options of `Sinusoidal2d`.

    extent: cells that either side of the picture counts for, whatever the grid, so that every
    scale spans the same picture. base: the longest wave, in cells over 2 pi.
    """

    extent: float = Field(default=32.0, gt=0)
    base: float = Field(default=10000.0, gt=1)


class Sinusoidal2d(nn.Module):
    """Sine of the row and cosine of the column, at the cell centres of every grid.

    Where `Learned2d` resizes its starting table, this evaluates the same waves at the centres
    themselves, so it is exact for any grid. The anchor is a buffer that only says where to
    compute.
    """

    Config: ClassVar[type[ComponentConfig]] = Sinusoidal2dConfig
    provides: ClassVar[frozenset[str]] = frozenset({"add"})
    anchor: Tensor

    def __init__(self, config: Sinusoidal2dConfig, *, facts: Facts) -> None:
        super().__init__()
        self.layouts: tuple[Layout, ...] | None = None
        self.config = config
        self.width = facts.width
        self.register_buffer("anchor", torch.empty(0), persistent=False)

    def forward(self, layout: Layout) -> Position:
        """add_LD: the waves of every grid, row-major, in [-1,1]."""
        extent, device = self.config.extent, self.anchor.device
        parts = []
        for grid in layout:
            rows, columns = centres(grid.h, extent, device), centres(grid.w, extent, device)
            waves = sincos_2d(rows, columns, self.width, base=self.config.base)
            parts.append(waves.flatten(0, 1))
        return Position(add_LD=torch.cat(parts))
