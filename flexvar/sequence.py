"""Token maps <-> what the backbone reads and is asked for (teacher forcing)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor

from flexvar.components import Tokenizer
from flexvar.errors import FlexvarError
from flexvar.layout import Layout


def teacher_forcing(tokenizer: Tokenizer, maps: Sequence[Tensor], layout: Layout) -> Tensor:
    """The inputs of scales 2..K made of the true maps of scales 1..K-1.

    maps: one (B,h,w) int64 map per grid of ``layout`` (the last one is not read).
    Returns (B, L - tokens of the first grid, C): each scale's folded latent, resized to the
    next grid, row-major; for a layout of one scale it is (B,0,C).
    Raises `FlexvarError` if the maps are not those of the layout.
    """
    check_maps(maps, layout)
    inputs = []
    latent: Tensor | None = None
    for step, grid in enumerate(layout.grids[1:]):
        latent = tokenizer.fold(latent, tokenizer.lookup(maps[step]), layout, step)
        inputs.append(rearrange(tokenizer.resize(latent, grid), "B C h w -> B (h w) C"))
    if not inputs:
        shape = (maps[0].shape[0], 0, tokenizer.space.code_dim)
        return torch.zeros(shape, device=maps[0].device)
    return torch.cat(inputs, dim=1)


def targets(maps: Sequence[Tensor]) -> Tensor:
    """The tokens (B,L) a model has to predict: all maps, row-major, coarse to fine."""
    return torch.cat([rearrange(map_Bhw, "B h w -> B (h w)") for map_Bhw in maps], dim=1)


def split(tokens_BL: Tensor, layout: Layout) -> tuple[Tensor, ...]:
    """The inverse of `targets`: (B,L) tokens as one (B,h,w) map per grid."""
    if tokens_BL.shape[1] != layout.tokens:
        raise FlexvarError(f"{tokens_BL.shape[1]} tokens do not fill the layout {layout}.")
    return tuple(
        tokens_BL[:, part].unflatten(1, grid)
        for part, grid in zip(layout.slices, layout, strict=True)
    )


def check_maps(maps: Sequence[Tensor], layout: Layout) -> None:
    """Raise `FlexvarError` unless there is one (B,h,w) integer map per grid of ``layout``."""
    shapes = [tuple(map_Bhw.shape[1:]) for map_Bhw in maps]
    if shapes != [tuple(grid) for grid in layout]:
        found = ", ".join("x".join(map(str, shape)) for shape in shapes)
        raise FlexvarError(f"Token maps of sizes {found} are not those of the layout {layout}.")
