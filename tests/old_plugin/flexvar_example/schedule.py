"""A schedule whose grids double."""

import flexvar


class Doubling:
    """1, 2, 4, ... and the last grid in full, every side at most doubled on the way."""

    class Config(flexvar.ComponentConfig):
        """Options: none."""

    def __init__(self, config, *, facts):
        pass

    def grids(self, last, *, steps=None, rng=None):
        """The list up to ``last``; ``rng`` drops grids in the middle of it."""
        last = flexvar.Grid(*last)
        sides = [2**k for k in range(max(last).bit_length())]
        grids = [flexvar.Grid(min(side, last.h), min(side, last.w)) for side in sides]
        grids = list(dict.fromkeys([*grids, last]))
        if steps is not None:
            least = min(2, len(grids))
            if not least <= steps <= len(grids):
                raise flexvar.FlexvarError(
                    f"steps: got {steps}; doubling takes at least {least} and at most "
                    f"{len(grids)} steps to {last}."
                )
            grids = [*grids[: steps - 1], last]
        if rng is not None and len(grids) > 2:
            # random.Random, numpy and torch generators alike.
            import torch

            torch_drawn = isinstance(rng, torch.Generator)
            draw = (lambda: torch.rand((), generator=rng).item()) if torch_drawn else rng.random
            grids = [grids[0], *(grid for grid in grids[1:-1] if draw() < 0.8), last]
        return flexvar.Layout(tuple(grids))
