"""The standard sampler: guidance, temperature, top-k, top-p, and a draw per token."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from flexvar.config import ComponentConfig
from flexvar.layout import Layout

if TYPE_CHECKING:
    from torch import Tensor

    from flexvar.components import Facts
    from flexvar.components.sampler import Filters

# torch is imported where tensors come in: the options of a command are read from the Config, and
# its help does not wait for torch.


class StandardConfig(ComponentConfig):
    """How tokens are chosen."""

    guidance: float = Field(
        default=2.0,
        ge=0,
        le=1e6,
        allow_inf_nan=False,
        description="Classifier-free guidance; off is 0 for the ramps, 1 for constant.",
    )
    guidance_schedule: Literal["ramp", "ramp10", "constant"] = Field(
        default="ramp",
        description="How guidance grows over the scales: ramp (VAR), ramp10 (FlexVAR), constant.",
    )
    # Within these bounds no logit leaves the range of fp32, beyond which no token could be drawn.
    temperature: float = Field(
        default=1.0, ge=1e-6, le=1e6, allow_inf_nan=False, description="Divides the logits."
    )
    top_k: int = Field(
        default=0, ge=0, description="Likeliest tokens kept; 0 is all, 1 the likeliest alone."
    )
    top_p: float = Field(
        default=1.0, gt=0, le=1, description="Of those, the nucleus that is kept; 1 is all."
    )
    soft: bool = Field(
        default=False,
        description="Mean codes instead of drawn ones: smoother looks (VAR's more_smooth).",
    )
    draw_sides: tuple[int, ...] | None = Field(
        default=None,
        description="Sides of the grids whose tokens are drawn, elsewhere the likeliest is taken; "
        "all unless given.",
    )


class StandardSampler:
    """VAR's and FlexVAR's way: guided logits, filtered, one draw per token.

    The schedules of guidance are those of `flexvar.generation.draw.guidance_weight`.
    """

    Config: ClassVar[type[ComponentConfig]] = StandardConfig

    def __init__(self, config: StandardConfig, *, facts: Facts) -> None:
        del facts  # everything it needs is in its options
        self.config = config

    def guidance(self, layout: Layout, step: int) -> float:
        """The weight of a step."""
        from flexvar.generation import draw

        options = self.config
        return draw.guidance_weight(options.guidance_schedule, options.guidance, layout.grids, step)

    def draws(self, layout: Layout, step: int) -> bool:
        """Whether the tokens of a step are drawn, rather than the likeliest taken."""
        sides = self.config.draw_sides
        return self.config.top_k != 1 and (sides is None or max(layout[step]) in sides)

    def process(
        self, logits: Tensor, layout: Layout, step: int, latent_BChw: Tensor | None
    ) -> Tensor:
        """The logits that tokens are drawn from."""
        from flexvar.generation import draw

        del latent_BChw
        options = self.config
        if options.temperature != 1:
            logits = logits / options.temperature
        if not self.draws(layout, step):
            return logits
        return draw.filter_logits(logits, top_k=options.top_k, top_p=options.top_p)

    def filters(self, layout: Layout, step: int) -> Filters | None:
        """What `process` does; nothing is said of a subclass that does something else."""
        from flexvar.components.sampler import Filters

        del layout, step  # the same at all that are drawn
        if type(self).process is not StandardSampler.process:
            return None
        return Filters(self.config.temperature, self.config.top_k, self.config.top_p)

    @property
    def mixes(self) -> bool:
        """Whether mean codes take the place of drawn ones."""
        return self.config.soft

    def mixture(self, logits: Tensor, gumbel: Tensor, layout: Layout, step: int) -> Tensor:
        """Weights (B,L,V) of a mean code."""
        from flexvar.generation import draw

        ratio = step / (len(layout) - 1) if len(layout) > 1 else 1.0
        return draw.soft_weights(logits, gumbel, ratio)
