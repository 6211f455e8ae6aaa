"""The decoder in tiles: a large picture in little more than its widest feature map.

Tiles decoded by themselves would each have its own GroupNorm statistics, and statistics taken
from a sample of the picture, or from a small version of it, move a picture by tens of grey
levels. So all tiles go through the network together, layer by layer: one feature map is held, and
replaced tile by tile, while each norm takes its statistics of the whole map. The middle and the
lowest level, with their attention, run whole, at the latent's size. A tile is a band of rows over
the full width, and reads as many rows beyond it as its convolutions do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexvar_plugins.tokenizers.cnn import Decoder, GroupNorm, ResidualBlock, Upsample

# Fewer rows would be read more often as a neighbour's than as their own.
LEAST_ROWS = 8


@torch.no_grad()
def decode_in_tiles(decoder: Decoder, latent: Tensor, pixels: int) -> Tensor:
    """What ``decoder(latent)`` gives, (B,3,H,W), in tiles of about so many pixels.

    To rounding: norms add up in another order.
    """
    return torch.cat([_decode_one(decoder, one, pixels) for one in latent.split(1)])


def _decode_one(decoder: Decoder, latent: Tensor, pixels: int) -> Tensor:
    x = decoder.middle(decoder.conv_in(latent))
    for number, level in enumerate(decoder.levels):
        for part in cast(nn.Sequential, level):
            if isinstance(part, Upsample):
                x = _upsample(part, x, pixels)
            elif number == 0:
                x = part(x)
            else:
                x = _block(cast(ResidualBlock, part), x, pixels)
    norm = Moments.of(x, pixels)
    patch = decoder.patch
    image = x.new_empty(1, 3, patch * x.shape[-2], patch * x.shape[-1])
    for top, bottom in bands(x, pixels):
        rows, crop = with_margin(x, top, bottom, 1)
        y = decoder.conv_out(F.silu(norm(decoder.norm_out, rows)))
        made = F.pixel_shuffle(y[..., crop, :], patch)
        image[..., patch * top : patch * bottom, :] = made
    return image


def _block(block: ResidualBlock, x: Tensor, pixels: int) -> Tensor:
    """`ResidualBlock.forward`; x itself is overwritten where its shape allows.

    The first convolution runs twice: once for the statistics of the second norm alone.
    """
    norm1, norm2 = Moments.of(x, pixels), Moments()
    for top, bottom in bands(x, pixels):
        rows, crop = with_margin(x, top, bottom, 1)
        norm2.add(block.conv1(F.silu(norm1(block.norm1, rows)))[..., crop, :])
    channels = block.conv2.out_channels
    y = x if channels == x.shape[1] else _empty(x, channels, x.shape[-2], x.shape[-1])
    before: Tensor | None = None  # the last rows of the tile above, as they were
    for top, bottom in bands(x, pixels):
        rows, crop = with_margin(x, top, bottom, 2)
        if before is not None:
            rows = torch.cat([before, rows[..., crop.start :, :]], dim=2)
        before = x[..., max(bottom - 2, 0) : bottom, :].clone()
        h = block.conv1(F.silu(norm1(block.norm1, rows)))
        # Rows that lack a neighbour inside the picture are wrong by now; at its border they are
        # as in the whole picture, which ends there too.
        first, last = max(top - 1, 0), min(bottom + 1, x.shape[-2])
        start = top - crop.start
        h = h[..., first - start : last - start, :]
        h = block.conv2(F.silu(norm2(block.norm2, h)))[..., top - first : bottom - first, :]
        y[..., top:bottom, :] = block.shortcut(rows[..., crop, :]) + h
    return y


def _upsample(part: Upsample, x: Tensor, pixels: int) -> Tensor:
    """`Upsample.forward`."""
    height, width = x.shape[-2:]
    y = _empty(x, part.conv.out_channels, 2 * height, 2 * width)
    # A band of x makes four times its pixels.
    for top, bottom in bands(x, pixels // 4):
        rows, crop = with_margin(x, top, bottom, 1)
        made = part(rows)[..., 2 * crop.start : 2 * crop.stop, :]
        y[..., 2 * top : 2 * bottom, :] = made
    return y


class Moments:
    """Mean and variance per group of a map that is met piece by piece."""

    def __init__(self) -> None:
        self.count = 0
        self.sum: Tensor | float = 0.0
        self.squares: Tensor | float = 0.0

    @classmethod
    def of(cls, x: Tensor, pixels: int) -> Moments:
        """Those of a whole map."""
        moments = cls()
        for top, bottom in bands(x, pixels):
            moments.add(x[..., top:bottom, :])
        return moments

    def add(self, x: Tensor) -> None:
        """Count a piece (1,C,h,w)."""
        x = x.float()
        self.count += x[0, 0].numel()
        self.sum = self.sum + x.sum(dim=(0, 2, 3), dtype=torch.double)
        self.squares = self.squares + x.square().sum(dim=(0, 2, 3), dtype=torch.double)

    def __call__(self, norm: GroupNorm, x: Tensor) -> Tensor:
        """A piece normalised by these moments, as ``norm`` does by a map's own."""
        assert isinstance(self.sum, Tensor)
        assert isinstance(self.squares, Tensor)
        groups, channels = norm.num_groups, x.shape[1] // norm.num_groups
        total, squares = (s.view(groups, -1).sum(dim=1) for s in (self.sum, self.squares))
        mean = total / (self.count * channels)
        variance = (squares / (self.count * channels) - mean.square()).clamp(min=0)
        scale = (variance + norm.eps).rsqrt().repeat_interleave(channels) * norm.weight.double()
        shift = norm.bias.double() - mean.repeat_interleave(channels) * scale
        scale, shift = (part.float()[:, None, None] for part in (scale, shift))
        return torch.addcmul(shift, x.float(), scale).to(x.dtype)


def bands(x: Tensor, pixels: int) -> Iterator[tuple[int, int]]:
    """First row and end of the bands of a map that have about so many pixels each."""
    height, width = x.shape[-2:]
    rows = max(LEAST_ROWS, pixels // width)
    for top in range(0, height, rows):
        yield top, min(top + rows, height)


def with_margin(x: Tensor, top: int, bottom: int, margin: int) -> tuple[Tensor, slice]:
    """The rows of a band and so many around, within the map; and where the band's own are."""
    first, last = max(top - margin, 0), min(bottom + margin, x.shape[-2])
    return x[..., first:last, :], slice(top - first, bottom - first)


def _empty(like: Tensor, channels: int, height: int, width: int) -> Tensor:
    """A map whose rows lie together in memory."""
    return torch.empty(
        (1, channels, height, width),
        dtype=like.dtype,
        device=like.device,
        memory_format=torch.channels_last,
    )
