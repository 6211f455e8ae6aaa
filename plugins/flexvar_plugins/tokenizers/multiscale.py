"""FlexVAR's tokenizer: every scale is the full picture."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from flexvar.components import Facts, TokenizerOutput
from flexvar.layout import Grid, Layout
from flexvar_plugins.tokenizers.base import CnnTokenizer
from flexvar_plugins.tokenizers.cnn import SMALL, CnnConfig
from flexvar_plugins.tokenizers.codebook import Quantised


class FullPictureTokenizer(CnnTokenizer):
    """Each scale is the latent, area-resized to its grid; any layout will do.

    A subclass says which tokens a latent has: ``nearest``, and with gradients
    ``straight_through``.
    """

    def nearest(self, latent_BChw: Tensor) -> Tensor:
        """The tokens (B,h,w) or (B,h,w,G) of a latent (B,C,h,w)."""
        raise NotImplementedError

    def straight_through(self, latent_BChw: Tensor, *, quantize: bool = True) -> Quantised:
        """Tokens and codes, with the gradient of the latent as if there were no choice."""
        raise NotImplementedError

    def forward(
        self, image_B3HW: Tensor, grids: Sequence[Grid], *, quantize: bool = True
    ) -> TokenizerOutput:
        """One reconstruction per grid: the latent resized to it, quantized and decoded.

        Losses are summed over the grids, which can be any (FlexVAR, section 3).
        """
        latent_BChw = self.features(image_B3HW)
        scales = [
            self.straight_through(
                F.interpolate(latent_BChw, size=tuple(grid), mode="area"), quantize=quantize
            )
            for grid in grids
        ]
        return TokenizerOutput(
            reconstructions=tuple(self.decode(scale.code) for scale in scales),
            maps=tuple(scale.index for scale in scales),
            vectors=tuple(scale.vectors for scale in scales),
            codebook_loss=_sum([scale.codebook_loss for scale in scales]),
            commitment_loss=_sum([scale.commitment_loss for scale in scales]),
        )

    def quantize(self, latent_BChw: Tensor, layout: Layout) -> tuple[Tensor, ...]:
        """One int64 map per grid: the tokens of the area-resized latent."""
        return tuple(
            self.nearest(F.interpolate(latent_BChw, size=tuple(grid), mode="area"))
            for grid in layout
        )

    def fold(
        self, latent_BChw: Tensor | None, code_BChw: Tensor, layout: Layout, step: int
    ) -> Tensor:
        """The latent after a scale is that scale's own codes."""
        del latent_BChw, layout, step
        return code_BChw

    def resize(self, latent_BChw: Tensor, grid: Grid) -> Tensor:
        """The input of a grid's scale: the codes, resized bicubically."""
        return F.interpolate(latent_BChw, size=tuple(grid), mode="bicubic")


def _sum(losses: list[Tensor | None]) -> Tensor | None:
    there = [loss for loss in losses if loss is not None]
    return torch.stack(there).sum() if there else None


class MultiscaleTokenizer(FullPictureTokenizer):
    """Each scale is quantized from the latent, area-resized to its grid; unit-length codes.

    Any layout will do, whatever its last grid (FlexVAR, arXiv 2502.20313, section 3). The
    defaults are those of the released ``FlexVAE``: stride 16, 8912 codes of 32 numbers.
    """

    Config = CnnConfig
    contract_options = (SMALL,)

    def __init__(self, config: CnnConfig, *, facts: Facts) -> None:
        super().__init__(config, facts=facts, normalise=True)

    def nearest(self, latent_BChw: Tensor) -> Tensor:
        """The nearest codes (B,h,w), by angle."""
        return self.codebook.nearest(latent_BChw)

    def straight_through(self, latent_BChw: Tensor, *, quantize: bool = True) -> Quantised:
        """See `Codebook.straight_through`."""
        return self.codebook.straight_through(latent_BChw, quantize=quantize)
