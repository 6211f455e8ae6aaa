"""Random lists of steps for training, by the paper's rule and by the released code's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

from pydantic import Field

from flexvar.components import Facts, Rng, sample, uniform
from flexvar.config import ComponentConfig
from flexvar.layout import Grid, Layout
from flexvar_plugins.schedules.ladder import in_shape, ladder, most_steps

# The released code's rule: tokens of one sequence at most, and the odds of 1, 2, 3, 4 drops.
MOST_TOKENS = 680
DROP_ABOVE = (0.90, 0.95, 0.98, 0.99)


class RandomStepsConfig(ComponentConfig):
    """Options of `RandomSteps`.

    rule: ``paper``, ``released`` or ``ladder``. steps: most grids of one list; fewest: least
    grids of one (``ladder`` only). drop: odds of dropping each middle grid; most_dropped: at most
    so many (``paper`` only).
    """

    rule: Literal["paper", "released", "ladder"] = "paper"
    steps: int = Field(default=10, ge=2)
    fewest: int = Field(default=5, ge=2)
    drop: float = Field(default=0.05, ge=0, lt=1)
    most_dropped: int = Field(default=4, ge=0)


class RandomSteps:
    """A new list for every training step; without ``rng``, the ladder's.

    ``paper`` (FlexVAR, arXiv 2502.20313, section 3): the first grid is 1x1, the last is the one
    asked for, up to ``steps - 2`` random ones stand between, each dropped with probability
    ``drop``. ``released``: the code's rule, which keeps 680 tokens at most by dropping one of
    the last four grids, so that **the last grid is the one asked for in about two of three
    lists only**. Both are stated for 16 cells a side and scaled to other sizes. ``ladder``: the
    ladder's list of a random number of grids, ``fewest`` to ``steps``: what a model then sees in
    use and nothing else, for training that has to be short.
    Ranks that share a seed draw the same lists.
    """

    Config: ClassVar[type[ComponentConfig]] = RandomStepsConfig
    # Not with the released rule, which may end below the grid asked for.
    contract_options: ClassVar[tuple[dict[str, Any], ...]] = (
        {},
        {"steps": 5, "drop": 0.5, "most_dropped": 1},
        {"rule": "ladder", "fewest": 3, "steps": 5},
    )

    def __init__(self, config: RandomStepsConfig, *, facts: Facts) -> None:
        del facts
        self.config = config

    def grids(self, last: Grid, *, steps: int | None = None, rng: Rng | None = None) -> Layout:
        """A random list up to ``last``; with ``steps``, of at most so many grids."""
        last = Grid(*last)
        if rng is None:
            return ladder(last, steps)
        draw = uniform(rng)
        if self.config.rule == "released":
            return _in_shape_of(last, _released(draw), 16)
        if self.config.rule == "ladder":
            most = min(steps or self.config.steps, most_steps(last))
            fewest = min(self.config.fewest, most)
            return ladder(last, fewest + int(draw() * (most - fewest + 1)))
        return self._paper(last, steps or self.config.steps, draw)

    def _paper(self, last: Grid, steps: int, draw: Callable[[], float]) -> Layout:
        longer = max(last)
        middle = range(2, longer)
        chosen = sample(middle, min(max(steps - 2, 0), len(middle)), draw)
        drops = [draw() < self.config.drop for _ in chosen]
        kept, dropped = [], 0
        for side, drop in zip(chosen, drops, strict=True):
            if drop and dropped < self.config.most_dropped:
                dropped += 1
            else:
                kept.append(side)
        return _in_shape_of(last, [1, *kept, longer], longer)


def _released(draw: Callable[[], float]) -> list[int]:
    """Sides by the released code's rule, for a last side of 16."""
    if draw() < 0.05:
        sides = [1, 2, 3, 4, 5, 6, 8, 10, 13, 16]
    else:
        sides = [1, 2, *sample(range(3, 11), 5, draw), *sample(range(11, 16), 2, draw), 16]
    lot = draw()
    for bound in DROP_ABOVE:
        if lot > bound:
            # Never the first two, never the last.
            del sides[2 + int(draw() * (len(sides) - 3))]
    while sum(side * side for side in sides) > MOST_TOKENS:
        del sides[len(sides) - 4 + int(draw() * 4)]
    return sides


def _in_shape_of(last: Grid, sides: list[int], of: int) -> Layout:
    grids = [in_shape(last, side, of) for side in sides]
    return Layout(tuple(dict.fromkeys([Grid(1, 1), *grids])))
