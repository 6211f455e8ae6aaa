"""What a sampler must do: say how tokens are chosen from what a model predicts."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor

from flexvar.config import ComponentConfig
from flexvar.layout import Layout


@runtime_checkable
class Predictor(Protocol):
    """What the generation loop needs of a model.

    ``start`` makes a fresh state for a layout under the inputs of a conditioner; ``features``
    takes the next scale's inputs (None for the first scale) and gives (B,h*w,D); ``head`` makes
    logits of features: (B,h*w,V), or (B,h*w,G,V) for tokens of several parts. The head is linear.
    """

    def start(self, inputs: Any, layout: Layout) -> Any: ...

    def features(self, inputs_BLC: Tensor | None, state: Any) -> Tensor: ...

    def head(self, features_BLD: Tensor) -> Tensor: ...


@runtime_checkable
class Sampler(Protocol):
    """How the tokens of a scale are chosen; it has no weights.

    Its ``Config`` is what a checkpoint's preset holds and what a call or a command overrides.
    ``guidance`` is the weight t of ``(1 + t) * conditional - t * unconditional`` at a step; where
    it is 0 at every step, the unconditional half is not computed at all. ``process`` changes the
    logits after guidance; latent_BChw is the folded latent of the coarser scales, None at step 0.
    """

    Config: ClassVar[type[ComponentConfig]]

    def guidance(self, layout: Layout, step: int) -> float: ...

    def process(
        self, logits: Tensor, layout: Layout, step: int, latent_BChw: Tensor | None
    ) -> Tensor: ...
