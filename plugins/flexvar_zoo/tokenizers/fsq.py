"""Finite scalar quantization: every channel is rounded by itself, and there is no codebook."""

from __future__ import annotations

import torch
from flexvar_plugins.tokenizers.cnn import SMALL, CnnConfig
from flexvar_plugins.tokenizers.codebook import Quantised
from flexvar_plugins.tokenizers.multiscale import FullPictureTokenizer
from pydantic import Field
from torch import Tensor

from flexvar.components import Facts, TokenSpace


class FsqConfig(CnnConfig):
    """Options of `FsqTokenizer`.

    vocab_size: levels of every channel, evenly from -1 to 1. code_dim: channels, the parts of a
    token, so that there are vocab_size to the power of code_dim codes.
    """

    vocab_size: int = Field(default=5, ge=2)
    code_dim: int = Field(default=6, ge=1)

    @property
    def space(self) -> TokenSpace:
        """A part per channel."""
        return TokenSpace(self.vocab_size, self.code_dim, self.stride, self.code_dim)


class FsqTokenizer(FullPictureTokenizer):
    """Every scale is the full picture, rounded channel by channel (FSQ, arXiv 2309.15505).

    A channel is bounded by tanh and rounded to the nearest of its levels; gradients pass the
    rounding as if it were not there. Codes cannot die, and need no losses of their own.
    """

    Config = FsqConfig
    codes = None
    contract_options = ({**SMALL, "vocab_size": 5, "code_dim": 3},)

    def __init__(self, config: FsqConfig, *, facts: Facts) -> None:
        super().__init__(config, facts=facts, normalise=None)

    def nearest(self, latent_BChw: Tensor) -> Tensor:
        """The nearest level (B,h,w,G) of every channel."""
        top = self.space.vocab_size - 1
        return ((torch.tanh(latent_BChw) + 1) * (top / 2)).round().long().movedim(1, -1)

    def straight_through(self, latent_BChw: Tensor, *, quantize: bool = True) -> Quantised:
        """Levels and codes, with the gradient of tanh."""
        bounded = torch.tanh(latent_BChw)
        tokens = self.nearest(latent_BChw)
        code = self.lookup(tokens) if quantize else bounded
        return Quantised(tokens, bounded.detach(), bounded + (code - bounded).detach())

    def lookup(self, tokens: Tensor) -> Tensor:
        """The codes (B,C,h,w), fp32 in [-1,1], of a map (B,h,w,G)."""
        return tokens.movedim(-1, 1).float() * (2 / (self.space.vocab_size - 1)) - 1
