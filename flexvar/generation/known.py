"""Tokens that are given to a generation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flexvar.errors import FlexvarError
from flexvar.layout import Layout
from flexvar.ops.precision import send


@dataclass(frozen=True, slots=True)
class Known:
    """Tokens that are given: maps (B,h,w) int64 and keep (B,h,w) bool, one of each per grid.

    Of tokens of several parts maps are (B,h,w,G); a token is kept with all its parts. Where
    ``keep`` is true the token of ``maps`` is taken, elsewhere a token is drawn. A scale may be
    kept wholly. For one image per row of the batch. Both may be on any device; where the masks are
    on the host, no device is waited for.
    """

    maps: tuple[Tensor, ...]
    keep: tuple[Tensor, ...]

    def check(self, layout: Layout, batch: int, groups: int = 1) -> None:
        """Raise `FlexvarError` unless there is a map and a mask for each grid and image."""
        parts = () if groups == 1 else (groups,)
        whole = tuple(not (m.is_floating_point() or m.dtype == torch.bool) for m in self.maps)
        masks = tuple(keep.dtype == torch.bool for keep in self.keep)
        _check("maps", "integer map", self.maps, whole, [(batch, *g, *parts) for g in layout])
        _check("keep", "bool mask", self.keep, masks, [(batch, *g) for g in layout])

    def to(self, device: torch.device) -> Known:
        """The same tokens on a device."""
        return Known(
            tuple(send(m.to(torch.int64), device) for m in self.maps),
            tuple(send(k, device) for k in self.keep),
        )

    def __getitem__(self, rows: slice) -> Known:
        """The tokens of some of the images."""
        return Known(tuple(m[rows] for m in self.maps), tuple(k[rows] for k in self.keep))

    def whole(self) -> list[list[bool]]:
        """Of each image, whether all its tokens of a scale are given; one look at the device."""
        return torch.stack([keep_Bhw.flatten(1).all(1) for keep_Bhw in self.keep], 1).tolist()


def _check(
    name: str,
    what: str,
    tensors: Sequence[Tensor],
    right: Sequence[bool],
    shapes: Sequence[tuple[int, ...]],
) -> None:
    if [tuple(tensor.shape) for tensor in tensors] == list(shapes) and all(right):
        return
    wanted = ", ".join(map(str, shapes))
    found = ", ".join(f"{tuple(tensor.shape)} {tensor.dtype}" for tensor in tensors)
    raise FlexvarError(f"{name}: expected one {what} per grid, {wanted}; got {found}.")
