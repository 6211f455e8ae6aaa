"""FlexVAR's published sampling: some sides are drawn, at the others the likeliest is taken."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from flexvar.config import ComponentConfig
from flexvar_plugins.samplers.standard import StandardConfig, StandardSampler

# FlexVAR's code draws tokens at these sides only and takes the likeliest elsewhere, and always
# above the trained side of 16.
DRAW_SIDES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)


class ReleasedConfig(StandardConfig):
    """Options of ``standard``, with the published values."""

    guidance: float = Field(
        default=2.5, allow_inf_nan=False, description="Classifier-free guidance; 0 is off."
    )
    guidance_schedule: Literal["ramp", "ramp10", "constant"] = Field(
        default="ramp10", description="How guidance grows over the scales."
    )
    top_k: int = Field(default=900, ge=0, description="Likeliest tokens kept; 0 is all.")
    top_p: float = Field(default=0.95, gt=0, le=1, description="Of those, the nucleus.")
    draw_sides: tuple[int, ...] | None = Field(
        default=DRAW_SIDES,
        description="Sides of the grids whose tokens are drawn, elsewhere the likeliest is taken.",
    )


class ReleasedSampler(StandardSampler):
    """The literal rule of FlexVAR's released code (arXiv 2502.20313), sides and all."""

    Config: ClassVar[type[ComponentConfig]] = ReleasedConfig
