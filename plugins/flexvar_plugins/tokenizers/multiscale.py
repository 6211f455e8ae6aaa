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


class MultiscaleTokenizer(CnnTokenizer):
    """Each scale is quantised from the latent, area-resized to its grid; unit-length codes.

    Any layout will do, whatever its last grid (FlexVAR, arXiv 2502.20313, section 3). The
    defaults are those of the released ``FlexVAE``: stride 16, 8912 codes of 32 numbers.
    """

    Config = CnnConfig
    contract_options = (SMALL,)

    def __init__(self, config: CnnConfig, *, facts: Facts) -> None:
        super().__init__(config, facts=facts, normalise=True)

    def forward(
        self, image_B3HW: Tensor, grids: Sequence[Grid], *, quantize: bool = True
    ) -> TokenizerOutput:
        """One reconstruction per grid: the latent resized to it, quantised and decoded.

        Losses are summed over the grids, which can be any (FlexVAR, section 3).
        """
        latent_BChw = self.features(image_B3HW)
        scales = [
            self.codebook.straight_through(
                F.interpolate(latent_BChw, size=tuple(grid), mode="area"), quantize=quantize
            )
            for grid in grids
        ]
        return TokenizerOutput(
            reconstructions=tuple(self.decode(scale.code) for scale in scales),
            maps=tuple(scale.index for scale in scales),
            vectors=tuple(scale.vectors for scale in scales),
            codebook_loss=torch.stack([scale.codebook_loss for scale in scales]).sum(),
            commitment_loss=torch.stack([scale.commitment_loss for scale in scales]).sum(),
        )

    def quantize(self, latent_BChw: Tensor, layout: Layout) -> tuple[Tensor, ...]:
        """One (B,h,w) int64 map per grid: the nearest codes of the area-resized latent."""
        return tuple(
            self.codebook.nearest(F.interpolate(latent_BChw, size=tuple(grid), mode="area"))
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
