"""FlexVAR's position embedding: one learned table for every grid."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import Field
from torch import Tensor, nn

from flexvar.components import Facts, Position
from flexvar.config import ComponentConfig
from flexvar.layout import Layout
from flexvar_plugins.positions.sincos import sincos_2d


class Learned2dConfig(ComponentConfig):
    """Options of `Learned2d`.

    side: rows and columns of the table; FlexVAR takes twice the training latent. resize:
    ``area`` (the released code) or ``bilinear`` (the paper). trainable: false is the ablation's
    "scalable, not learnable".
    """

    side: int = Field(default=32, ge=1)
    resize: Literal["area", "bilinear"] = "area"
    trainable: bool = True


class Learned2d(nn.Module):
    """A (D, side, side) table, resized to each grid; it starts as a 2D sine-cosine.

    Any layout (FlexVAR, arXiv 2502.20313, section 3 and table 6).
    """

    Config: ClassVar[type[ComponentConfig]] = Learned2dConfig
    provides: ClassVar[frozenset[str]] = frozenset({"add"})
    contract_options: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"side": 16, "resize": "bilinear"},
        {"trainable": False},
    )

    def __init__(self, config: Learned2dConfig, *, facts: Facts) -> None:
        super().__init__()
        self.layouts: tuple[Layout, ...] | None = None
        self.resize = config.resize
        cells = torch.arange(config.side, dtype=torch.float32)
        table = rearrange(sincos_2d(cells, cells, facts.width), "h w D -> 1 D h w")
        self.table = nn.Parameter(table.contiguous(), requires_grad=config.trainable)

    def forward(self, layout: Layout) -> Position:
        """add_LD: the table resized to every grid, row-major."""
        return Position(add_LD=torch.cat([self._grid(tuple(grid)) for grid in layout]))

    def _grid(self, size: tuple[int, ...]) -> Tensor:
        resized = F.interpolate(self.table.float(), size=size, mode=self.resize)
        return rearrange(resized, "1 D h w -> (h w) D")
