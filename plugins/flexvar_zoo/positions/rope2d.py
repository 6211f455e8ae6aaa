"""Rotary angles at coordinates of one reference grid, whatever the grid: Infinity's positions."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from flexvar.components import Facts, Position
from flexvar.config import ComponentConfig
from flexvar.errors import FlexvarError
from flexvar.layout import Grid, Layout

# The last grid of the published list of each aspect ratio, taller than wide; 64 cells is square.
SIDE = 64
_GRIDS = ((64, 64), (70, 56), (72, 54), (78, 52), (84, 48), (90, 45), (100, 40), (111, 37))
REFERENCES = tuple(Grid(*grid) for grid in _GRIDS)


class Rope2dConfig(ComponentConfig):
    """Options of `Rope2d`.

    side: cells a side of the square reference grid; those of other shapes are scaled alike. base:
    of the frequencies. ntk: where a grid is larger than its reference, the base grows with it, so
    that slow channels stay within the angles they were trained at; without it they leave them.
    """

    side: int = Field(default=SIDE, ge=1)
    base: float = Field(default=10000.0, gt=1)
    ntk: bool = True


class Rope2d(nn.Module):
    """Half of a head's pairs turn with the row, half with the column (Infinity, arXiv 2412.04431).

    Cell (i,j) of a grid h x w stands at (round(i H/h), round(j W/w)), halves to even, H x W being
    the reference grid of the picture's shape: a part of the picture has one place at all scales,
    and at every size. A larger grid is its own reference, with NTK scaling of the base.
    """

    Config: ClassVar[type[ComponentConfig]] = Rope2dConfig
    provides: ClassVar[frozenset[str]] = frozenset({"rotate"})
    anchor: Tensor

    def __init__(self, config: Rope2dConfig, *, facts: Facts) -> None:
        super().__init__()
        self.layouts: tuple[Layout, ...] | None = None
        self.config = config
        self.pairs = facts.head_dim // 4
        if self.pairs == 0 and facts.head_dim:
            raise FlexvarError(
                f"position rope2d turns two pairs of channels at least, so a head needs 4; this "
                f"backbone's head_dim is {facts.head_dim}."
            )
        self.register_buffer("anchor", torch.empty(0), persistent=False)

    def forward(self, layout: Layout) -> Position:
        """rotate_LR: R = head_dim // 2 angles per token, rows first, then columns."""
        device, pairs = self.anchor.device, self.pairs
        height, width = reference(layout.last, self.config.side)
        growth = max(1.0, layout.last.h / height, layout.last.w / width)
        base = self.config.base
        if self.config.ntk and pairs > 1:
            # The slowest of the frequencies falls by exactly the growth, the fastest stays.
            base *= growth ** (pairs / (pairs - 1))
        index = torch.arange(pairs, dtype=torch.float32, device=device)
        frequency = torch.exp(index * (-math.log(base) / pairs))
        height, width = max(height, layout.last.h), max(width, layout.last.w)
        parts = []
        for grid in layout:
            rows = places(grid.h, height, device)[:, None] * frequency
            columns = places(grid.w, width, device)[:, None] * frequency
            size = (grid.h, grid.w, pairs)
            both = [rows[:, None].expand(size), columns[None].expand(size)]
            parts.append(torch.cat(both, dim=-1).flatten(0, 1))
        return Position(rotate_LR=torch.cat(parts))


def reference(last: Grid, side: int) -> Grid:
    """The grid in whose cells positions are counted: that of the nearest published shape."""
    wide = last.w > last.h
    ratio = max(last) / min(last)
    grid = min(REFERENCES, key=lambda one: abs(math.log(one.h / one.w) - math.log(ratio)))
    long, short = (max(1, round(cells * side / SIDE)) for cells in grid)
    return Grid(short, long) if wide else Grid(long, short)


def places(count: int, extent: int, device: torch.device) -> Tensor:
    """Where ``count`` cells stand among ``extent``: rounded, halves to even, fp32 (count,)."""
    # Of fractions: a quotient of floats would be a hair off where it has to be a half.
    found = [round(Fraction(cell * extent, count)) for cell in range(count)]
    return torch.tensor(found, dtype=torch.float32, device=device)
