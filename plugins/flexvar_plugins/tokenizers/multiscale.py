"""FlexVAR's tokenizer: every scale is the full picture."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from flexvar.layout import Grid, Layout
from flexvar.protocols import Facts
from flexvar_plugins.tokenizers.base import CnnTokenizer
from flexvar_plugins.tokenizers.cnn import CnnConfig


class MultiscaleTokenizer(CnnTokenizer):
    """Each scale is quantised from the latent, area-resized to its grid; unit-length codes.

    Any layout will do, whatever its last grid (FlexVAR, arXiv 2502.20313, section 3). The
    defaults are those of the released ``FlexVAE``: stride 16, 8912 codes of 32 numbers.
    """

    Config = CnnConfig

    def __init__(self, config: CnnConfig, *, facts: Facts) -> None:
        super().__init__(config, facts=facts, normalise=True)

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
