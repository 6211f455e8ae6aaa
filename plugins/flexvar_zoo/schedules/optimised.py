"""The evenest list of grids that a number of tokens pays for."""

from __future__ import annotations

from functools import lru_cache
from typing import ClassVar

import numpy as np
from flexvar_plugins.schedules.ladder import in_shape, usual_steps
from pydantic import Field

from flexvar.components import Facts, Rng
from flexvar.config import ComponentConfig
from flexvar.errors import FlexvarError
from flexvar.layout import Grid, Layout


class OptimisedConfig(ComponentConfig):
    """Options of `Optimised`.

    tokens: most tokens of the whole list, as a multiple of the last grid's. VAR's and FlexVAR's
    list of ten for 16x16 has 2.66 times as many; 1 would be the last grid alone.
    """

    tokens: float = Field(default=2.66, gt=1)


class Optimised:
    """Of all lists of so many steps within a budget of tokens, one whose grids grow most evenly.

    Evenly: the squares of the logarithm of growth, from grid to grid, have the least sum; a step
    of four times the cells is as bad as four of twice the cells. Found by dynamic programming over
    the sides, with a price on tokens.
    """

    Config: ClassVar[type[ComponentConfig]] = OptimisedConfig
    contract_options: ClassVar[tuple[dict[str, float], ...]] = ({}, {"tokens": 1.5})

    def __init__(self, config: OptimisedConfig, *, facts: Facts) -> None:
        del facts
        self.config = config

    def grids(self, last: Grid, *, steps: int | None = None, rng: Rng | None = None) -> Layout:
        """The list up to ``last``; ``rng`` changes nothing.

        Unless given, there are as many steps as the ladder has, or as many as can be paid.
        Raises `FlexvarError` for more steps than that, and for less than 1.
        """
        del rng
        last = Grid(*last)
        cells = _candidates(last)
        budget = self.config.tokens * last.cells
        sums = np.cumsum([grid.cells for grid in cells[:-1]]) + last.cells
        most = 1 if len(cells) == 1 else max(2, 1 + int((sums <= budget).sum()))
        least = min(2, len(cells))
        if steps is None:
            steps = max(least, min(usual_steps(last), most))
        if not least <= steps <= most:
            raise FlexvarError(
                f"steps: got {steps}; a list of at most {self.config.tokens:g} times the tokens of "
                f"a {last} latent takes at least {least} and at most {most} steps. Raise the "
                "schedule's option tokens for more."
            )
        return Layout(tuple(cells[index] for index in _evenest(cells, steps, budget)))


def _candidates(last: Grid) -> tuple[Grid, ...]:
    """All grids of the shape of ``last``, rounded down, from 1x1 on."""
    sides = range(1, max(last) + 1)
    return tuple(dict.fromkeys([Grid(1, 1), *(in_shape(last, s, max(last)) for s in sides)]))


@lru_cache(maxsize=256)
def _evenest(grids: tuple[Grid, ...], steps: int, budget: float) -> tuple[int, ...]:
    """Which of the grids: those at the least price of a token, by bisection, that is in budget."""
    cells = np.array([grid.cells for grid in grids], dtype=np.float64)
    growth = np.log(cells[None] / cells[:, None])
    jump = np.where(np.triu(np.ones_like(growth), 1) > 0, growth**2, np.inf)

    def best(price: float) -> tuple[int, ...]:
        cost = np.full(len(cells), np.inf)
        cost[0] = 0.0
        came = []
        for _ in range(steps - 1):
            total = cost[:, None] + jump + price * cells[None]
            came.append(total.argmin(axis=0))
            cost = total.min(axis=0)
        path = [len(cells) - 1]
        for table in reversed(came):
            path.append(int(table[path[-1]]))
        return tuple(reversed(path))

    low, high = 1e-9, 1e3
    if cells[list(best(low))].sum() <= budget:
        return best(low)
    for _ in range(60):
        middle = (low * high) ** 0.5
        spent = cells[list(best(middle))].sum()
        low, high = (middle, high) if spent > budget else (low, middle)
    return best(high)
