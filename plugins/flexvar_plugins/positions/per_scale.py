"""VAR's position embedding: a learned vector per position of a fixed list of grids."""

from __future__ import annotations

import copy
import math
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from flexvar.components import Facts, Position
from flexvar.config import ComponentConfig
from flexvar.errors import FlexvarError
from flexvar.layout import Grid, Layout


class PerScaleConfig(ComponentConfig):
    """Options of `PerScale`.

    grids: the list, each a side or [rows, columns]. step_embedding: also one learned vector
    per step. subsets: any selection of the grids, in order, is a layout too (for training on
    random step lists, the "fixed grid" rows of FlexVAR's table 6). interpolate: take any layout,
    at the quality of a guess: see `PerScale.any_layout`.
    """

    grids: tuple[int | tuple[int, int], ...] = Field(min_length=1)
    step_embedding: bool = True
    subsets: bool = False
    interpolate: bool = False


class PerScale(nn.Module):
    """One vector per token of the known layout, and one per step (VAR, arXiv 2404.02905)."""

    Config: ClassVar[type[ComponentConfig]] = PerScaleConfig
    provides: ClassVar[frozenset[str]] = frozenset({"add"})
    contract_options = (
        {"grids": (1, 2, (2, 3), 4)},
        {"grids": (1, 2, (2, 3), 4), "subsets": True, "step_embedding": False},
        {"grids": (1, 2, (2, 3), 4), "interpolate": True},
    )

    def __init__(self, config: PerScaleConfig, *, facts: Facts) -> None:
        super().__init__()
        self.known = Layout.of(*config.grids)
        self.known.check_for_model()
        self.interpolate = config.interpolate
        self.layouts: tuple[Layout, ...] | None = None if config.interpolate else (self.known,)
        self.subsets = config.subsets
        std = math.sqrt(1 / facts.width / 3)
        self.table = nn.Parameter(torch.empty(self.known.tokens, facts.width))
        nn.init.trunc_normal_(self.table, std=std)
        self.step: nn.Parameter | None = None
        if config.step_embedding:
            self.step = nn.Parameter(torch.empty(len(self.known), facts.width))
            nn.init.trunc_normal_(self.step, std=std)

    def any_layout(self) -> Self:
        """The same embedding, sharing its weights, that takes every layout by interpolation.

        A grid takes the table of the known grid nearest in number of cells, resized bilinearly,
        and that grid's step vector. Known grids keep their own. Nothing is trained for it.
        """
        free = copy.copy(self)
        free.interpolate, free.layouts = True, None
        return free

    def forward(self, layout: Layout) -> Position:
        """add_LD of the known layout, or of any with ``interpolate``.

        Raises `FlexvarError` for any other.
        """
        strange = [grid for grid in layout if grid not in self.known.grids]
        if not self.interpolate and (strange or (layout != self.known and not self.subsets)):
            which = f"knows no grid {strange[0]}" if strange else "knows only its whole list"
            raise FlexvarError(
                f"The position embedding per_scale {which}: it was made for {self.known} and "
                f"was asked for {layout}. Use its own sizes, or a model with learned2d; "
                "any_size=True interpolates the positions, which nothing was trained for."
            )
        return Position(add_LD=torch.cat([self._grid(grid) for grid in layout]))

    def _grid(self, grid: Grid) -> Tensor:
        index = self._nearest(grid)
        known, part = self.known[index], self.table[self.known.slices[index]]
        if grid != known:
            table = rearrange(part, "(h w) D -> 1 D h w", h=known.h)
            # Corners on corners: with centres on centres, from three times the side on, the
            # outermost cells would all stand in one place.
            resized = F.interpolate(table, size=tuple(grid), mode="bilinear", align_corners=True)
            part = rearrange(resized, "1 D h w -> (h w) D")
        return part if self.step is None else part + self.step[index]

    def _nearest(self, grid: Grid) -> int:
        """The index of a known grid: itself, else the nearest in cells, the finer of two."""
        if grid in self.known.grids:
            return self.known.grids.index(grid)
        distances = [abs(math.log(known.cells / grid.cells)) for known in self.known]
        return min(range(len(distances)), key=lambda index: (distances[index], -index))
