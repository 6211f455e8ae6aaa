"""Rotary angles by row and column, without parameters."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from flexvar.components import Facts, Position
from flexvar.config import ComponentConfig
from flexvar.errors import FlexvarError
from flexvar.layout import Layout
from flexvar_plugins.positions.sincos import centres


class Rotary2dConfig(ComponentConfig):
    """Options of `Rotary2d`.

    extent: cells that either side of the picture counts for, whatever the grid. base: of the
    frequencies.
    """

    extent: float = Field(default=32.0, gt=0)
    base: float = Field(default=100.0, gt=1)


class Rotary2d(nn.Module):
    """Half of a head's channel pairs turn with the row, half with the column.

    Cells of all scales share one frame, so the angle between two tokens is their distance in
    the picture (RoFormer, arXiv 2104.09864, by axis).
    """

    Config: ClassVar[type[ComponentConfig]] = Rotary2dConfig
    provides: ClassVar[frozenset[str]] = frozenset({"rotate"})
    anchor: Tensor

    def __init__(self, config: Rotary2dConfig, *, facts: Facts) -> None:
        super().__init__()
        self.layouts: tuple[Layout, ...] | None = None
        self.config = config
        self.pairs = facts.head_dim // 4
        if self.pairs == 0 and facts.head_dim:
            raise FlexvarError(
                f"position rotary2d turns two pairs of channels at least, so a head needs 4; this "
                f"backbone's head_dim is {facts.head_dim}."
            )
        self.register_buffer("anchor", torch.empty(0), persistent=False)

    def forward(self, layout: Layout) -> Position:
        """rotate_LR: R = head_dim // 2 angles per token, rows first, then columns."""
        device = self.anchor.device
        index = torch.arange(self.pairs, dtype=torch.float32, device=device)
        frequency = torch.exp(index * (-math.log(self.config.base) / self.pairs))
        parts = []
        for grid in layout:
            rows = centres(grid.h, self.config.extent, device)[:, None] * frequency
            columns = centres(grid.w, self.config.extent, device)[:, None] * frequency
            size = (grid.h, grid.w, self.pairs)
            both = [rows[:, None].expand(size), columns[None].expand(size)]
            parts.append(torch.cat(both, dim=-1).flatten(0, 1))
        return Position(rotate_LR=torch.cat(parts))
