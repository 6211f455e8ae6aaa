"""A sampler that cools down: less and less is left to chance from scale to scale."""

from pydantic import Field

import flexvar


class Cooling:
    """Temperatures from ``first`` to ``last``, in even steps; no guidance."""

    class Config(flexvar.ComponentConfig):
        """Options of `Cooling`."""

        first: float = Field(default=1.2, gt=0, description="Temperature of the first scale.")
        last: float = Field(default=0.6, gt=0, description="Temperature of the last scale.")

    def __init__(self, config, *, facts):
        self.config = config

    def guidance(self, layout, step):
        """None at any step."""
        return 0.0

    def process(self, logits, layout, step, latent_BChw):
        """The logits over the temperature of the step."""
        place = step / max(1, len(layout) - 1)
        return logits / (self.config.first + place * (self.config.last - self.config.first))
