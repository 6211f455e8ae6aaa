"""Two models in one picture: from some scale on another one goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from flexvar_plugins.samplers.standard import StandardConfig, StandardSampler
from pydantic import Field

from flexvar.config import ComponentConfig
from flexvar.layout import Layout

if TYPE_CHECKING:
    from torch import Tensor

    from flexvar.components import Predictor


class RelayConfig(StandardConfig):
    """Options of ``standard``, and who takes over when."""

    finisher: str | None = Field(
        default=None,
        description="Checkpoint that goes on, over the same tokenizer; none is the model itself.",
    )
    from_step: int = Field(
        default=7, ge=1, description="First step of the finisher; the first of all steps is 0."
    )


class RelaySampler(StandardSampler):
    """The coarse scales by one model, the fine ones by another (CoDe, arXiv 2411.17787).

    Most of a picture is settled in few tokens and most of the time goes into many: a large model
    for the first scales and a small one for the rest is nearly as good as the large one alone.
    """

    Config: ClassVar[type[ComponentConfig]] = RelayConfig

    @property
    def _options(self) -> RelayConfig:
        assert isinstance(self.config, RelayConfig)
        return self.config

    @property
    def models(self) -> Mapping[str, str]:
        """The checkpoint that is loaded beside the pipeline's own."""
        finisher = self._options.finisher
        return {} if finisher is None else {"finisher": finisher}

    def wrap(self, models: Mapping[str, Predictor]) -> Predictor:
        """Both as one."""
        first, second = models["model"], models.get("finisher", models["model"])
        return Relay(first, second, self._options.from_step)


@dataclass(slots=True)
class RelayState:
    """The states of both models; the first one's is dropped when it is done."""

    first: Any
    second: Any
    scale: int = 0


class Relay:
    """Two models of one pace: logits are made here, as the models' features differ in width."""

    def __init__(self, first: Predictor, second: Predictor, from_step: int) -> None:
        self.first, self.second, self.from_step = first, second, from_step

    def start(self, inputs: Any, layout: Layout) -> RelayState:
        """A fresh state of both."""
        return RelayState(self.first.start(inputs, layout), self.second.start(inputs, layout))

    def features(self, inputs_BLC: Tensor | None, state: RelayState) -> Tensor:
        """Logits of the model whose turn it is; the second one reads every scale."""
        scale, state.scale = state.scale, state.scale + 1
        features_BLD = self.second.features(inputs_BLC, state.second)
        if scale >= self.from_step:
            state.first = None
            return self.second.head(features_BLD)
        return self.first.head(self.first.features(inputs_BLC, state.first))

    def head(self, features_BLD: Tensor) -> Tensor:
        """The logits that ``features`` gave."""
        return features_BLD
