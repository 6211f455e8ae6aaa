"""Decoding in overlapping tiles: large pictures in bounded memory."""

from __future__ import annotations

import torch
from torch import Tensor

from flexvar.components import Tokenizer
from flexvar.errors import FlexvarError

# Pictures of more pixels than this are decoded in tiles, unless told.
WHOLE = 1024 * 1024
# Side of a tile in pixels.
TILE = 512
# Cells by which tiles overlap where they are blended.
OVERLAP = 8


def decode(tokenizer: Tokenizer, latent_BChw: Tensor, tile: int | None = None) -> Tensor:
    """The image (B,3,H,W), about [-1,1], of a folded latent; in tiles if it is large.

    tile: side of a tile in pixels; 0 is none; None is `TILE` for pictures of over `WHOLE`
    pixels. A tokenizer that knows better has ``decode_tiles(latent, cells)``; the others'
    tiles are decoded by themselves and blended.
    Raises `FlexvarError` for a tile of less than a latent cell.
    """
    stride = tokenizer.space.stride
    height, width = (side * stride for side in latent_BChw.shape[-2:])
    if tile is None:
        tile = TILE if height * width > WHOLE else 0
    if tile == 0:
        return tokenizer.decode(latent_BChw)
    if tile < stride:
        raise FlexvarError(
            f"tile: got {tile}; expected 0, or at least the {stride} pixels of a latent cell."
        )
    cells = tile // stride
    if max(latent_BChw.shape[-2:]) <= cells:
        return tokenizer.decode(latent_BChw)
    own = getattr(tokenizer, "decode_tiles", None)
    if own is not None:
        return own(latent_BChw, cells)
    return blended(tokenizer, latent_BChw, cells)


def blended(tokenizer: Tokenizer, latent_BChw: Tensor, cells: int) -> Tensor:
    """The image of a latent, decoded in tiles of ``cells`` a side that fade into each other.

    For any tokenizer; its norms and attention see one tile at a time, so the picture differs
    from the whole one wherever they matter.
    """
    stride = tokenizer.space.stride
    batch, _, h, w = latent_BChw.shape
    overlap = min(OVERLAP, cells // 2)
    device = latent_BChw.device
    total = torch.zeros(batch, 3, h * stride, w * stride, dtype=torch.float32, device=device)
    weight = torch.zeros(1, 1, h * stride, w * stride, dtype=torch.float32, device=device)
    for top in starts(h, cells, overlap):
        for left in starts(w, cells, overlap):
            bottom, right = min(top + cells, h), min(left + cells, w)
            part = tokenizer.decode(latent_BChw[..., top:bottom, left:right].contiguous())
            fade = ramp(top, bottom, h, overlap, stride, device)[:, None] * ramp(
                left, right, w, overlap, stride, device
            )
            place = (
                ...,
                slice(top * stride, bottom * stride),
                slice(left * stride, right * stride),
            )
            total[place] += part.float() * fade
            weight[place] += fade
    return total / weight


def starts(length: int, cells: int, overlap: int) -> list[int]:
    """Where tiles of ``cells`` begin that cover ``length`` and overlap by at least so much."""
    last = max(0, length - cells)
    step = max(1, cells - overlap)
    return [*range(0, last, step), last]


def ramp(
    start: int, stop: int, length: int, overlap: int, stride: int, device: torch.device
) -> Tensor:
    """Weights of a tile's pixels along one side: rising over the overlap, not at the border."""
    pixels = torch.arange((stop - start) * stride, dtype=torch.float32, device=device) + 0.5
    fade = torch.ones_like(pixels)
    if overlap and start > 0:
        fade = torch.minimum(fade, pixels / (overlap * stride))
    if overlap and stop < length:
        fade = torch.minimum(fade, pixels.flip(0) / (overlap * stride))
    return fade
