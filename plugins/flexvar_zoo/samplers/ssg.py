"""Scaled spatial guidance: away from what the coarser scale already said."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from flexvar_plugins.samplers.standard import StandardConfig, StandardSampler
from pydantic import Field

from flexvar.config import ComponentConfig
from flexvar.layout import Grid, Layout

if TYPE_CHECKING:
    from torch import Tensor

    from flexvar.components import Predictor


class SsgConfig(StandardConfig):
    """Options of ``standard``, and how far logits move away from the coarser scale's."""

    sharpen: float = Field(
        default=0.3, ge=0, description="Weight of what a scale adds to the coarser one; 0 is off."
    )


class SsgSampler(StandardSampler):
    """Logits l + b (l - p), p being those of the scale before, resized (SSG, arXiv 2602.05534).

    What repeats the coarser scale is damped, what is new in this one is stressed. p is resized as
    in the paper's Discrete Spatial Enhancement: its low frequencies are those of the coarser
    scale to the bit, the others come from linear interpolation. b is the same at every scale.
    """

    Config: ClassVar[type[ComponentConfig]] = SsgConfig

    def wrap(self, models: Mapping[str, Predictor]) -> Predictor:
        """The model, whose features are moved; logits are linear in them, and so is p."""
        assert isinstance(self.config, SsgConfig)
        return Sharpened(models["model"], self.config.sharpen)


@dataclass(slots=True)
class SharpenedState:
    """The model's own state, where it stands, and the features of the scale before."""

    inner: Any
    layout: Layout
    before_BLD: Tensor | None = None
    scale: int = 0


class Sharpened:
    """A model whose features of each scale are moved away from those of the one before."""

    def __init__(self, model: Predictor, weight: float) -> None:
        self.model, self.weight = model, weight
        self.head = model.head

    def start(self, inputs: Any, layout: Layout) -> SharpenedState:
        """A fresh state."""
        return SharpenedState(self.model.start(inputs, layout), layout)

    def features(self, inputs_BLC: Tensor | None, state: SharpenedState) -> Tensor:
        """Features (B,h*w,D), moved."""
        found_BLD = self.model.features(inputs_BLC, state.inner)
        before_BLD, scale = state.before_BLD, state.scale
        state.before_BLD, state.scale = found_BLD, scale + 1
        if before_BLD is None or self.weight == 0:
            return found_BLD
        prior_BLD = enlarged(before_BLD, state.layout[scale - 1], state.layout[scale])
        return found_BLD + self.weight * (found_BLD - prior_BLD)


def enlarged(x_BLD: Tensor, small: Grid, large: Grid) -> Tensor:
    """Maps at another grid: linear, with the low frequencies of the small one put back."""
    import torch.nn.functional as F

    image = x_BLD.mT.unflatten(2, small)
    resized = F.interpolate(image, size=tuple(large), mode="bilinear", align_corners=False)
    h, w = min(small.h, large.h), min(small.w, large.w)
    (down, right), (down2, right2) = (
        [_cosines(count).to(x_BLD) for count in grid] for grid in (small, large)
    )
    wanted = (down @ image @ right.mT)[..., :h, :w] * math.sqrt(large.cells / small.cells)
    there = (down2 @ resized @ right2.mT)[..., :h, :w]
    return (resized + down2[:h].mT @ (wanted - there) @ right2[:w]).flatten(2).mT


def _cosines(count: int) -> Tensor:
    """The orthonormal cosine transform (n,n) of an axis, waves by cells."""
    import torch

    place = torch.arange(count, dtype=torch.float64)
    waves = torch.cos(place[:, None] * (place + 0.5) * (math.pi / count)) * (2 / count) ** 0.5
    waves[0] /= 2**0.5
    return waves
