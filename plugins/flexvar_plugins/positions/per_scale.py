"""VAR's position embedding: a learned vector per position of a fixed list of grids."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from flexvar.config import ComponentConfig
from flexvar.errors import FlexvarError
from flexvar.layout import Layout
from flexvar.protocols import Facts, Position


class PerScaleConfig(ComponentConfig):
    """Options of `PerScale`.

    grids: the list, each a side or [rows, columns]. step_embedding: also one learned vector
    per step. subsets: any selection of the grids, in order, is a layout too (for training on
    random step lists, the "fixed grid" rows of FlexVAR's table 6).
    """

    grids: tuple[int | tuple[int, int], ...] = Field(min_length=1)
    step_embedding: bool = True
    subsets: bool = False


class PerScale(nn.Module):
    """One vector per token of the known layout, and one per step (VAR, arXiv 2404.02905)."""

    Config: ClassVar[type[ComponentConfig]] = PerScaleConfig
    provides: ClassVar[frozenset[str]] = frozenset({"add"})
    contract_options = (
        {"grids": (1, 2, (2, 3), 4)},
        {"grids": (1, 2, (2, 3), 4), "subsets": True, "step_embedding": False},
    )

    def __init__(self, config: PerScaleConfig, *, facts: Facts) -> None:
        super().__init__()
        self.known = Layout.of(*config.grids)
        self.known.check_for_model()
        self.layouts: tuple[Layout, ...] | None = (self.known,)
        self.subsets = config.subsets
        std = math.sqrt(1 / facts.width / 3)
        self.table = nn.Parameter(torch.empty(self.known.tokens, facts.width))
        nn.init.trunc_normal_(self.table, std=std)
        self.step: nn.Parameter | None = None
        if config.step_embedding:
            self.step = nn.Parameter(torch.empty(len(self.known), facts.width))
            nn.init.trunc_normal_(self.step, std=std)

    def forward(self, layout: Layout) -> Position:
        """add_LD of the known layout. Raises `FlexvarError` for any other."""
        strange = [grid for grid in layout if grid not in self.known.grids]
        if strange or (layout != self.known and not self.subsets):
            which = f"knows no grid {strange[0]}" if strange else "knows only its whole list"
            raise FlexvarError(
                f"The position embedding per_scale {which}: it was made for {self.known} and "
                f"was asked for {layout}. Use its own sizes, or a model with learned2d."
            )
        parts = [self._grid(self.known.grids.index(grid)) for grid in layout]
        return Position(add_LD=torch.cat(parts))

    def _grid(self, index: int) -> Tensor:
        part = self.table[self.known.slices[index]]
        return part if self.step is None else part + self.step[index]
