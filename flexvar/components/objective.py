"""What a training objective must do: inputs, targets and the loss of the prediction model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor

from flexvar.components.schedule import Rng
from flexvar.components.tokenizer import Tokenizer
from flexvar.config import ComponentConfig
from flexvar.layout import Layout


@dataclass(frozen=True, slots=True)
class Pairs:
    """What one training step shows a model, and what it asks of it.

    inputs_BLC: the inputs of scales 2..K, (B, L - tokens of the first grid, C). targets: (B,L)
    int64, or (B,L,G) for tokens of several parts. weight_BL: what each token's loss is multiplied
    by before the mean over all tokens is taken, (B,L) or (1,L); None is 1.
    """

    inputs_BLC: Tensor
    targets: Tensor
    weight_BL: Tensor | None = None


@runtime_checkable
class Objective(Protocol):
    """What a model is trained to do; it has no weights.

    ``pairs`` makes inputs and targets of continuous latents (B,C,h,w), the tokenizer's
    ``features`` of the pictures; all that is random in them is drawn from ``rng``. ``loss`` gives
    the loss (B,L) in nats of logits (B,L,V) or (B,L,G,V), summed over the parts of a token. On a
    model that is sure of the targets it is 0.

    Optional: ``again(tokenizer, pairs, logits, layout, rng) -> Pairs | None``, a second pass for
    the same pictures, made of the logits of the first; its loss is added.
    """

    Config: ClassVar[type[ComponentConfig]]

    def pairs(
        self, tokenizer: Tokenizer, latent_BChw: Tensor, layout: Layout, rng: Rng
    ) -> Pairs: ...

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor: ...
