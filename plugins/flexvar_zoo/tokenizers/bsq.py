"""Binary spherical quantization over residual scales: every channel is one bit."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from flexvar_plugins.tokenizers.cnn import SMALL, CnnConfig
from flexvar_plugins.tokenizers.residual import ResidualSumTokenizer
from pydantic import Field
from torch import Tensor

from flexvar.components import Facts, TokenSpace
from flexvar.layout import Grid, Layout


class BsqConfig(CnnConfig):
    """Options of `BsqTokenizer`.

    code_dim: bits d of a cell of the network. patchify: cells per side that share a token, which
    has the bits of all of them. sharpness: of the odds of bits that the entropy loss is taken of.
    """

    vocab_size: int = Field(default=2, ge=2, le=2)
    patchify: int = Field(default=1, ge=1)
    sharpness: float = Field(default=4.0, gt=0)

    @property
    def space(self) -> TokenSpace:
        """A part of two values per bit."""
        bits = self.code_dim * self.patchify**2
        return TokenSpace(2, bits, self.stride * self.patchify, bits)


class BsqTokenizer(ResidualSumTokenizer):
    """Each scale takes the signs of what the coarser ones left over.

    d bits of a cell are a code of d numbers of size 1/sqrt(d), so there is no codebook, however
    many codes there are (BSQ, arXiv 2406.07548; residual scales: Infinity, arXiv 2412.04431,
    section 3.2, whose form this is). Latents have the tokens' grid, and with ``patchify`` the
    channels of its cells.
    """

    Config = BsqConfig
    codes = None
    # The sign of what is next to nothing hangs on the order in which a convolution adds up: some
    # bit of a picture falls otherwise with channels last, and all finer ones follow.
    contiguous = True
    contract_options = (
        {**SMALL, "vocab_size": 2, "code_dim": 32},
        {**SMALL, "vocab_size": 2, "code_dim": 6, "patchify": 2},
        {**SMALL, "vocab_size": 2, "projection_kernel": 0, "attention": False},
    )

    def __init__(self, config: BsqConfig, *, facts: Facts) -> None:
        super().__init__(config, facts=facts, normalise=None)
        self.bits, self.patchify, self.sharpness = (
            config.code_dim,
            config.patchify,
            config.sharpness,
        )

    def features(self, image_B3HW: Tensor) -> Tensor:
        """The continuous latent (B,C,h,w), fp32, of an image (B,3,H,W) in [-1,1]."""
        return F.pixel_unshuffle(super().features(image_B3HW), self.patchify)

    def decode(self, latent_BChw: Tensor) -> Tensor:
        """The image (B,3,H,W), fp32, about [-1,1], of a folded latent."""
        return super().decode(F.pixel_shuffle(latent_BChw, self.patchify))

    def decode_tiles(self, latent_BChw: Tensor, cells: int) -> Tensor:
        """What `decode` gives, in bands of the pixels of ``cells`` x ``cells``."""
        return super().decode_tiles(F.pixel_shuffle(latent_BChw, self.patchify), cells)

    def nearest(self, part_BChw: Tensor) -> Tensor:
        """The bits (B,h,w,G): the sign of every channel."""
        return (part_BChw > 0).long().movedim(1, -1)

    def lookup(self, tokens: Tensor) -> Tensor:
        """The codes (B,C,h,w), fp32, of a map of bits (B,h,w,G)."""
        return (tokens.movedim(-1, 1).float() * 2 - 1) * self.bits**-0.5

    def contribution(self, code_BChw: Tensor, layout: Layout, step: int) -> Tensor:
        """The codes, resized linearly to the last grid."""
        return self.sized(code_BChw, layout.last, "bilinear")

    def resize(self, latent_BChw: Tensor, grid: Grid) -> Tensor:
        """The input of a grid's scale: the running sum, resized linearly."""
        return self.sized(latent_BChw, grid, "bilinear")

    def scale_losses(self, part_BChw: Tensor) -> dict[str, Tensor]:
        """The mean entropy of a bit less the entropy of its mean (BSQ, eq. 10), in nats.

        Least where every bit is sure, and its two values are equally common.
        """
        unit = F.normalize(F.pixel_shuffle(part_BChw, self.patchify), dim=1)
        odds = torch.sigmoid(self.sharpness * self.bits**0.5 * unit)
        sure, common = (
            (torch.special.entr(p) + torch.special.entr(1 - p)).mean()
            for p in (odds, odds.mean(dim=(0, 2, 3)))
        )
        return {"entropy": sure - common}

    def sized(self, latent_BChw: Tensor, grid: Grid, mode: str) -> Tensor:
        """At another grid of tokens; what is resized are the cells of the network."""
        if tuple(latent_BChw.shape[-2:]) == grid:
            return latent_BChw
        cells = F.pixel_shuffle(latent_BChw, self.patchify)
        size = grid.h * self.patchify, grid.w * self.patchify
        return F.pixel_unshuffle(F.interpolate(cells, size=size, mode=mode), self.patchify)
