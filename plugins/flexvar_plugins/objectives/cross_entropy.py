"""Cross-entropy of the true tokens given the true coarser scales: VAR's and FlexVAR's training."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from flexvar.components import Facts, Pairs, Rng, Tokenizer
from flexvar.config import ComponentConfig
from flexvar.layout import Layout
from flexvar.metrics.token_loss import token_losses
from flexvar.sequence import targets, teacher_forcing


class CrossEntropyConfig(ComponentConfig):
    """Options that the first-party objectives share.

    scale_power: a token of a scale of n cells weighs as n to the power of minus this, and all
    weigh 1 on average. 0 is every token alike, as VAR and FlexVAR; 1 every scale alike; 0.5 is
    Infinity's weight, which falls with the side of a scale (arXiv 2412.04431).
    """

    scale_power: float = Field(default=0.0, ge=0, le=2)


class CrossEntropy:
    """The true tokens of every scale, predicted from the true coarser ones."""

    Config: ClassVar[type[ComponentConfig]] = CrossEntropyConfig

    def __init__(self, config: Any, *, facts: Facts) -> None:
        self.config = config
        self.facts = facts

    def pairs(self, tokenizer: Tokenizer, latent_BChw: Tensor, layout: Layout, rng: Rng) -> Pairs:
        """Inputs by teacher forcing, and all tokens as targets; nothing is random."""
        del rng
        maps = tokenizer.quantize(latent_BChw, layout)
        inputs_BLC = teacher_forcing(tokenizer, maps, layout)
        return Pairs(inputs_BLC, targets(maps), self.weights(layout, inputs_BLC))

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy (B,L) in nats, summed over the parts of a token."""
        return token_losses(logits, targets)

    def weights(self, layout: Layout, like: Tensor) -> Tensor | None:
        """Weights (1,L) of the tokens, 1 on average; None if all are alike."""
        if self.config.scale_power == 0:
            return None
        cells_L = torch.cat([torch.full((grid.cells,), float(grid.cells)) for grid in layout])
        weight_L = cells_L.pow(-self.config.scale_power)
        return (weight_L / weight_L.mean())[None].to(like.device)
