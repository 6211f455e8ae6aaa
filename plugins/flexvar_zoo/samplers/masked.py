"""Several rounds within a scale: the surest tokens stay, the others are drawn anew."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

from flexvar_plugins.samplers.standard import StandardConfig, StandardSampler
from pydantic import Field

from flexvar.config import ComponentConfig
from flexvar.layout import Layout

if TYPE_CHECKING:
    from torch import Tensor


class MaskedConfig(StandardConfig):
    """Options of ``standard``, and how many rounds there are at which scales."""

    rounds: int = Field(default=3, ge=1, le=64, description="Rounds of a scale.")
    least_side: int = Field(
        default=2, ge=1, description="Smaller grids are drawn in one round, and so is the first."
    )


class MaskedSampler(StandardSampler):
    """A scale in several rounds, as HMAR has them (arXiv 2506.04421, section 3.2).

    All tokens of a scale at once are drawn as if they knew nothing of each other; in rounds, the
    later ones see the codes of those that stayed. How many stay follows a cosine, as in MaskGIT
    (arXiv 2202.04200): few at first. HMAR trains a head of its own for it; here the model is asked
    again with the codes of the tokens that stayed in the place of its input. A model that never
    saw such inputs gains less, and may lose.
    """

    Config: ClassVar[type[ComponentConfig]] = MaskedConfig

    @property
    def _options(self) -> MaskedConfig:
        assert isinstance(self.config, MaskedConfig)
        return self.config

    def rounds(self, layout: Layout, step: int) -> int:
        """Rounds of a step: one where there is nothing to mask, or the likeliest is taken."""
        large = min(layout[step]) >= self._options.least_side
        return self._options.rounds if step and large and self.draws(layout, step) else 1

    def keep(self, logits: Tensor, tokens: Tensor, layout: Layout, step: int, round: int) -> Tensor:
        """The tokens (B,L) that stay after a round: those the model is surest of."""
        import torch

        chosen = logits.log_softmax(dim=-1).gather(-1, tokens[..., None])[..., 0]
        sure_BL = chosen if chosen.ndim == 2 else chosen.sum(dim=-1)
        cells = layout[step].cells
        done = (round + 1) / self._options.rounds
        count = min(cells, math.floor(cells * (1 - math.cos(done * math.pi / 2))))
        stays_BL = torch.zeros_like(sure_BL, dtype=torch.bool)
        return stays_BL.scatter(1, sure_BL.topk(count, dim=1).indices, True)
