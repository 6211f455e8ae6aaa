"""The convolutional encoder and decoder that VAR's and FlexVAR's tokenizers share.

The VQGAN network of both papers: residual blocks by level, attention at the lowest level and in
the middle or nowhere, GroupNorm(32), SiLU.
"""

from __future__ import annotations

from typing import Any, Self

import torch
import torch.nn.functional as F
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from flexvar.components import TokenSpace
from flexvar.config import ComponentConfig
from flexvar.errors import FlexvarError
from flexvar.ops.groups import NORM_SILU, norm_silu

GROUPS = 32
# Of widths that 32 do not divide, as Infinity's networks have it.
OTHER_GROUPS = 24


class CnnConfig(ComponentConfig):
    """Options of the convolutional tokenizers.

    vocab_size, code_dim: the codebook. patch: pixels per side that become channels before the
    first convolution and pixels again after the last (Shi et al., arXiv 1609.05158); with 2 the
    level at full size, where most of the time goes, is saved. channels: width of the finest
    level, a multiple of groups; channel_multipliers: of each level, fine to coarse - the stride
    is patch, and 2 per level after the first. blocks: residual blocks per level (the decoder has
    one more). groups: of GroupNorm; narrow networks need fewer than the published 32, for with
    one channel in each the picture's own brightness and colour are lost.
    latent_channels: what the encoder puts out before it is
    projected to code_dim. projection_kernel: size of that projection and of its inverse; 0 is no
    projection, so that latent_channels is code_dim. attention: whether the lowest level and the
    middle have some.
    """

    vocab_size: int = Field(default=8912, ge=1)
    code_dim: int = Field(default=32, ge=1)
    patch: int = Field(default=1, ge=1)
    channels: int = Field(default=128, ge=1)
    channel_multipliers: tuple[int, ...] = Field(default=(1, 1, 2, 2, 4), min_length=1)
    blocks: int = Field(default=2, ge=1)
    groups: int = Field(default=GROUPS, ge=1)
    latent_channels: int = Field(default=256, ge=1)
    projection_kernel: int = Field(default=1, ge=0)
    attention: bool = True

    @model_validator(mode="before")
    @classmethod
    def _latent_is_the_code(cls, data: Any) -> Any:
        """Without a projection the encoder puts out codes."""
        if isinstance(data, dict) and data.get("projection_kernel") == 0 and "code_dim" in data:
            return {"latent_channels": data["code_dim"], **data}
        return data

    @field_validator("projection_kernel")
    @classmethod
    def _has_a_centre(cls, value: int) -> int:
        if value and value % 2 == 0:
            raise ValueError("expected an odd number, so that it keeps the size")
        return value

    @model_validator(mode="after")
    def _whole_groups(self) -> Self:
        if self.projection_kernel == 0 and self.latent_channels != self.code_dim:
            raise ValueError(
                f"latent_channels is {self.latent_channels}, and without a projection "
                f"(projection_kernel 0) it has to be code_dim, {self.code_dim}"
            )
        if any(width % group_count(width, self.groups) for width in self.widths):
            raise ValueError(
                f"channels is {self.channels}, expected a multiple of {self.groups}, the groups "
                "of its GroupNorm"
            )
        return self

    @property
    def stride(self) -> int:
        """Pixels per latent cell."""
        return self.patch * 2 ** (len(self.channel_multipliers) - 1)

    @property
    def space(self) -> TokenSpace:
        """The tokens these options lead to."""
        return TokenSpace(self.vocab_size, self.code_dim, self.stride)

    @property
    def widths(self) -> list[int]:
        """Channels of each level, fine to coarse."""
        return [self.channels * multiplier for multiplier in self.channel_multipliers]


def group_count(channels: int, groups: int) -> int:
    """The groups of a width: the usual 32 become 24 where they do not divide it."""
    return OTHER_GROUPS if groups == GROUPS and channels % groups else groups


class GroupNorm(nn.GroupNorm):
    """GroupNorm that also takes a single value per group.

    torch's module refuses that, which a 1x1 latent of a narrow network is. fused: see
    `flexvar.ops.fusion`.
    """

    fused = False
    fusions = (NORM_SILU,)

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__(group_count(channels, groups), channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,h,w) -> the same shape."""
        return torch.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def silu(self, x: Tensor) -> Tensor:
        """The same, with SiLU behind it."""
        given = self.weight, self.bias, self.num_groups, self.eps
        return norm_silu(x, *given, fused=self.fused)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions behind norm and SiLU, and a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, groups: int) -> None:
        super().__init__()
        self.norm1 = GroupNorm(in_channels, groups)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.norm2 = GroupNorm(out_channels, groups)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut: nn.Module = nn.Identity()
        if in_channels != out_channels:
            self.shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B,in,h,w) -> (B,out,h,w)."""
        h = self.conv1(self.norm1.silu(x))
        h = self.conv2(self.norm2.silu(h))
        x = self.shortcut(x)
        return x + h if torch.is_grad_enabled() else h.add_(x)


class SelfAttention(nn.Module):
    """One-headed attention over all cells, and a shortcut."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.norm = GroupNorm(channels, groups)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,h,w) -> the same shape."""
        grid = x.shape[-2:]
        q, k, v = self.qkv(self.norm(x)).flatten(2).mT.unsqueeze(1).chunk(3, dim=-1)
        h = F.scaled_dot_product_attention(q, k, v).squeeze(1)
        return x + self.out(h.mT.unflatten(2, grid))


class Downsample(nn.Module):
    """Half the size; padded on the right and below only, as the released weights expect."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,h,w) -> (B,C,h/2,w/2)."""
        return self.conv(F.pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Twice the size, nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,h,w) -> (B,C,2h,2w)."""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


def _middle(channels: int, config: CnnConfig) -> nn.Sequential:
    groups = config.groups
    return nn.Sequential(
        ResidualBlock(channels, channels, groups),
        SelfAttention(channels, groups) if config.attention else nn.Identity(),
        ResidualBlock(channels, channels, groups),
    )


class Encoder(nn.Module):
    """Image (B,3,H,W) -> (B, latent_channels, H/stride, W/stride)."""

    def __init__(self, config: CnnConfig) -> None:
        super().__init__()
        widths = config.widths
        self.patch = config.patch
        self.conv_in = nn.Conv2d(3 * config.patch**2, config.channels, 3, padding=1)
        self.levels = nn.ModuleList()
        width = config.channels
        for number, level_width in enumerate(widths):
            lowest = number == len(widths) - 1
            level = nn.Sequential()
            for _ in range(config.blocks):
                level.append(ResidualBlock(width, level_width, config.groups))
                width = level_width
                if lowest and config.attention:
                    level.append(SelfAttention(width, config.groups))
            if not lowest:
                level.append(Downsample(width))
            self.levels.append(level)
        self.middle = _middle(width, config)
        self.norm_out = GroupNorm(width, config.groups)
        self.conv_out = nn.Conv2d(width, config.latent_channels, 3, padding=1)

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """The latent before it is projected to code_dim."""
        x = self.conv_in(F.pixel_unshuffle(image_B3HW, self.patch))
        for level in self.levels:
            x = level(x)
        return self.conv_out(self.norm_out.silu(self.middle(x)))


class Decoder(nn.Module):
    """(B, latent_channels, h, w) -> image (B,3,h*stride,w*stride), about [-1,1].

    ``levels`` stand coarse to fine.
    """

    def __init__(self, config: CnnConfig) -> None:
        super().__init__()
        widths = config.widths[::-1]
        width = widths[0]
        self.conv_in = nn.Conv2d(config.latent_channels, width, 3, padding=1)
        self.middle = _middle(width, config)
        self.levels = nn.ModuleList()
        for number, level_width in enumerate(widths):
            level = nn.Sequential()
            for _ in range(config.blocks + 1):
                level.append(ResidualBlock(width, level_width, config.groups))
                width = level_width
                if number == 0 and config.attention:
                    level.append(SelfAttention(width, config.groups))
            if number < len(widths) - 1:
                level.append(Upsample(width))
            self.levels.append(level)
        self.norm_out = GroupNorm(width, config.groups)
        self.patch = config.patch
        self.conv_out = nn.Conv2d(width, 3 * config.patch**2, 3, padding=1)

    def forward(self, latent: Tensor) -> Tensor:
        """The picture of a latent that is projected back from code_dim."""
        x = self.middle(self.conv_in(latent))
        for level in self.levels:
            x = level(x)
        return F.pixel_shuffle(self.conv_out(self.norm_out.silu(x)), self.patch)


# Small enough to be tried with every partner, see `flexvar.contract`.
SMALL: dict[str, Any] = {
    "vocab_size": 50,
    "code_dim": 8,
    "channels": GROUPS,
    "channel_multipliers": (1, 1),
    "blocks": 1,
    "latent_channels": 8,
}


def check_image(image_B3HW: Tensor, stride: int) -> None:
    """Raise `FlexvarError` unless it is a (B,3,H,W) tensor of whole latent cells."""
    shape = tuple(image_B3HW.shape)
    if len(shape) != 4 or shape[1] != 3:
        raise FlexvarError(f"Expected an image tensor (B,3,H,W) in [-1,1], got shape {shape}.")
    if shape[2] % stride or shape[3] % stride or 0 in shape[2:]:
        raise FlexvarError(
            f"An image of {shape[2]}x{shape[3]} pixels is no whole number of cells of {stride} "
            f"pixels; resize or crop it to multiples of {stride}."
        )
