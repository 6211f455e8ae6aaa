"""Guidance in a part of the steps alone."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from flexvar.config import ComponentConfig
from flexvar.layout import Layout
from flexvar_plugins.samplers.standard import StandardConfig, StandardSampler


class IntervalConfig(StandardConfig):
    """Options of ``standard``, and where guidance acts."""

    guidance_from: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Where guidance begins: 0 is the first step, 1 the last.",
    )
    guidance_to: float = Field(
        default=0.7,
        ge=0,
        le=1,
        description="Where guidance ends; the steps past it cost half.",
    )

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.guidance_from > self.guidance_to:
            raise ValueError(
                f"guidance_from is {self.guidance_from:g}, past guidance_to, "
                f"{self.guidance_to:g}; expected it no later"
            )
        return self


class IntervalSampler(StandardSampler):
    """``standard`` with guidance limited to an interval (arXiv 2404.07724), here of steps.

    At the first scales guidance costs variety, at the last ones, where half the tokens stand, it
    changes little. The schedule gives the weight inside of the interval.
    """

    Config: ClassVar[type[ComponentConfig]] = IntervalConfig

    def guidance(self, layout: Layout, step: int) -> float:
        """The weight of a step: 0 outside of the interval."""
        config = self.config
        assert isinstance(config, IntervalConfig)
        place = step / (len(layout) - 1) if len(layout) > 1 else 1.0
        inside = config.guidance_from <= place <= config.guidance_to or len(layout) == 1
        return super().guidance(layout, step) if inside else 0.0
