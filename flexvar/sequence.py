"""Token maps <-> what the backbone reads, is asked for, and what is decoded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from einops import rearrange
from torch import Tensor

from flexvar.components import Tokenizer
from flexvar.errors import FlexvarError
from flexvar.layout import Layout


def fold_scales(tokenizer: Tokenizer, maps: Sequence[Tensor], layout: Layout) -> Iterator[Tensor]:
    """The folded latent (B,C,h,w) after each of the maps, which may be the first few alone."""
    latent: Tensor | None = None
    for step, tokens in enumerate(maps):
        latent = tokenizer.fold(latent, tokenizer.lookup(tokens), layout, step)
        yield latent


def decode_scales(tokenizer: Tokenizer, maps: Sequence[Tensor], layout: Layout) -> Iterator[Tensor]:
    """The picture (B,3,H,W), about [-1,1], that is decoded after each scale."""
    return (tokenizer.decode(latent) for latent in fold_scales(tokenizer, maps, layout))


def teacher_forcing(tokenizer: Tokenizer, maps: Sequence[Tensor], layout: Layout) -> Tensor:
    """The inputs of scales 2..K made of the true maps of scales 1..K-1.

    maps: one int64 map per grid of ``layout``, (B,h,w), or (B,h,w,G) for tokens of G parts (the
    last one is not read).
    Returns (B, L - tokens of the first grid, C): each scale's folded latent, resized to the
    next grid, row-major; for a layout of one scale it is (B,0,C).
    Raises `FlexvarError` if the maps are not those of the layout.
    """
    check_maps(maps, layout, tokenizer.space.groups)
    latents = fold_scales(tokenizer, maps[:-1], layout)
    inputs = [
        rearrange(tokenizer.resize(latent, grid), "B C h w -> B (h w) C")
        for latent, grid in zip(latents, layout.grids[1:], strict=True)
    ]
    if not inputs:
        shape = (maps[0].shape[0], 0, tokenizer.space.code_dim)
        return torch.zeros(shape, dtype=torch.float32, device=maps[0].device)
    return torch.cat(inputs, dim=1)


def targets(maps: Sequence[Tensor]) -> Tensor:
    """The tokens a model has to predict, (B,L) or (B,L,G): all maps, row-major, coarse to fine."""
    return torch.cat([tokens.flatten(1, 2) for tokens in maps], dim=1)


def split(tokens: Tensor, layout: Layout) -> tuple[Tensor, ...]:
    """The inverse of `targets`: tokens (B,L) or (B,L,G) as one map per grid."""
    if tokens.shape[1] != layout.tokens:
        raise FlexvarError(f"{tokens.shape[1]} tokens do not fill the layout {layout}.")
    return tuple(
        tokens[:, part].unflatten(1, grid) for part, grid in zip(layout.slices, layout, strict=True)
    )


def check_maps(maps: Sequence[Tensor], layout: Layout, groups: int | None = None) -> None:
    """Raise `FlexvarError` unless there is one integer map per grid of ``layout``.

    groups: parts of a token: 1 asks for maps (B,h,w), more for (B,h,w,G); None takes any number.
    """
    shapes = [tuple(tokens.shape[1:3]) for tokens in maps]
    if shapes != [tuple(grid) for grid in layout]:
        found = ", ".join("x".join(map(str, shape)) for shape in shapes)
        raise FlexvarError(f"Token maps of sizes {found} are not those of the layout {layout}.")
    # One axis more for tokens of several parts, and never one of length 1.
    parts = {tokens.shape[3:].numel() if tokens.ndim == 4 else 1 for tokens in maps}
    shaped = all(tokens.ndim == 3 or (tokens.ndim == 4 and tokens.shape[3] > 1) for tokens in maps)
    if not shaped or len(parts) > 1 or groups not in (None, *parts):
        wanted = "(B,h,w)" if groups == 1 else f"(B,h,w,{groups or 'G'})"
        raise FlexvarError(
            f"Token maps of shape {tuple(maps[0].shape)} for tokens of {groups or 'several'} "
            f"part{'' if groups == 1 else 's'}; expected {wanted}."
        )
