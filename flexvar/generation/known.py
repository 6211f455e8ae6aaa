"""Tokens that are given to a generation."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flexvar.errors import FlexvarError
from flexvar.layout import Layout
from flexvar.sequence import check_maps


@dataclass(frozen=True, slots=True)
class Known:
    """Tokens that are given: maps (B,h,w) int64 and keep (B,h,w) bool, one of each per grid.

    Where ``keep`` is true the token of ``maps`` is taken, elsewhere a token is drawn. A scale may
    be kept wholly. For one image per row of the batch.
    """

    maps: tuple[Tensor, ...]
    keep: tuple[Tensor, ...]

    def check(self, layout: Layout, batch: int) -> None:
        """Raise `FlexvarError` unless there is a map and a mask for each grid and image."""
        check_maps(self.maps, layout)
        shapes = [(tuple(k.shape), k.dtype) for k in self.keep]
        if shapes != [((batch, *grid), torch.bool) for grid in layout]:
            found = ", ".join(f"{shape} {dtype}" for shape, dtype in shapes)
            raise FlexvarError(
                f"keep: expected one bool mask ({batch}, rows, columns) per grid of the layout "
                f"{layout}, got {found}."
            )
