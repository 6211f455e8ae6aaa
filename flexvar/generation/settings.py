"""The options by which tokens are chosen."""

from __future__ import annotations

from pydantic import Field

from flexvar.config import ComponentConfig
from flexvar.generation.draw import GuidanceSchedule
from flexvar.layout import Grid


class SamplingSettings(ComponentConfig):
    """How tokens are chosen.

    guidance: classifier-free guidance; 0 is off for the ramps, 1 for ``constant``.
    guidance_schedule: ``ramp``, ``ramp10`` or ``constant``, see
    `flexvar.generation.draw.guidance_weight`. temperature: divides the logits. top_k: likeliest
    tokens kept, 0 for all, 1 for the likeliest alone. top_p: of those, the nucleus; 1 for all.
    soft: mean codes instead of drawn ones (VAR's ``more_smooth``). draw_sides: sides of the grids
    whose tokens are drawn, all others take the likeliest (FlexVAR's released code); None
    draws everywhere.
    """

    guidance: float = Field(default=2.0, allow_inf_nan=False)
    guidance_schedule: GuidanceSchedule = "ramp"
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    top_k: int = Field(default=0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    soft: bool = False
    draw_sides: tuple[int, ...] | None = None

    def draws(self, grid: Grid) -> bool:
        """Whether the tokens of a grid are drawn, rather than the likeliest taken."""
        return self.top_k != 1 and (self.draw_sides is None or max(grid) in self.draw_sides)
