"""Product quantization: several small codebooks, each for its share of the channels."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from einops import rearrange
from flexvar_plugins.tokenizers.cnn import SMALL, CnnConfig
from flexvar_plugins.tokenizers.codebook import Quantised
from flexvar_plugins.tokenizers.multiscale import FullPictureTokenizer
from pydantic import Field, model_validator
from torch import Tensor, nn

from flexvar.components import Facts, TokenSpace


class ProductConfig(CnnConfig):
    """Options of `ProductTokenizer`.

    codebooks: how many, each of vocab_size codes over code_dim / codebooks channels.
    """

    vocab_size: int = Field(default=1024, ge=1)
    codebooks: int = Field(default=4, ge=2)

    @model_validator(mode="after")
    def _whole_shares(self) -> Self:
        if self.code_dim % self.codebooks:
            raise ValueError(
                f"code_dim is {self.code_dim}, expected a multiple of {self.codebooks} codebooks"
            )
        return self

    @property
    def space(self) -> TokenSpace:
        """A part per codebook."""
        return TokenSpace(self.vocab_size, self.code_dim, self.stride, self.codebooks)


class ProductTokenizer(FullPictureTokenizer):
    """Every scale is the full picture, its channels in shares with a codebook of unit codes each.

    As many combinations as vocab_size to the power of codebooks, in the memory of their sum
    (Jegou et al., 2011; for next-scale prediction: ImageFolder, arXiv 2410.01756).
    """

    Config = ProductConfig
    keep_fp32 = frozenset({"codebooks"})
    contract_options = ({**SMALL, "codebooks": 2},)

    def __init__(self, config: ProductConfig, *, facts: Facts) -> None:
        super().__init__(config, facts=facts, normalise=None)
        shape = config.codebooks, config.vocab_size, config.code_dim // config.codebooks
        self.codebooks = nn.Parameter(F.normalize(torch.randn(shape), dim=-1))

    @property
    def codes(self) -> nn.Parameter:
        """The codebooks (G,V,C/G)."""
        return self.codebooks

    @torch.no_grad()
    def nearest(self, latent_BChw: Tensor) -> Tensor:
        """The nearest code (B,h,w,G) of each share of the channels, by angle."""
        shares = self._unit(latent_BChw).unflatten(1, (self.space.groups, -1)).unbind(1)
        codes_GVC = F.normalize(self.codes.float(), dim=-1)
        # Of unit vectors the nearest code is the one with the largest product; in fp32.
        with torch.autocast(latent_BChw.device.type, enabled=False):
            found = [
                torch.einsum("BChw,VC->BhwV", share, codes_VC).argmax(dim=-1)
                for share, codes_VC in zip(shares, codes_GVC, strict=True)
            ]
        return torch.stack(found, dim=-1)

    def straight_through(self, latent_BChw: Tensor, *, quantize: bool = True) -> Quantised:
        """The nearest codes, and the two losses of `flexvar_plugins.tokenizers.codebook`."""
        vectors, tokens = self._unit(latent_BChw), self.nearest(latent_BChw)
        code = self.lookup(tokens) if quantize else vectors.detach()
        return Quantised(
            index=tokens,
            vectors=vectors.detach(),
            code=vectors + (code - vectors).detach(),
            codebook_loss=F.mse_loss(code, vectors.detach()),
            commitment_loss=F.mse_loss(vectors, code.detach()),
        )

    def lookup(self, tokens: Tensor) -> Tensor:
        """The codes (B,C,h,w), fp32, of a map (B,h,w,G)."""
        codes_GVC = F.normalize(self.codes.float(), dim=-1)
        part = torch.arange(len(codes_GVC), device=tokens.device)
        return rearrange(codes_GVC[part, tokens], "B h w G C -> B (G C) h w")

    def _unit(self, latent_BChw: Tensor) -> Tensor:
        """Every share of the channels at unit length."""
        shares = latent_BChw.float().unflatten(1, (self.space.groups, -1))
        return F.normalize(shares, dim=2).flatten(1, 2)
