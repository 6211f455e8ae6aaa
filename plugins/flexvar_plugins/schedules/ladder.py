"""The paper's lists of steps by size and number, and lists alike for any other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

from pydantic import Field

from flexvar.components import Facts, Rng
from flexvar.config import ComponentConfig
from flexvar.errors import FlexvarError
from flexvar.layout import Grid, Layout

# FlexVAR, arXiv 2502.20313 and its code: sides of the latent by last side and number of steps.
_TEN = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
_THIRTEEN = (*range(1, 11), 12, 14, 16)
PUBLISHED: dict[int, dict[int, tuple[int, ...]]] = {
    16: {
        6: (1, 2, 4, 6, 10, 16),
        7: (1, 2, 3, 5, 8, 11, 16),
        8: (1, 2, 3, 4, 6, 10, 13, 16),
        9: (1, 2, 3, 4, 5, 7, 10, 13, 16),
        10: _TEN,
        11: (1, 2, 3, 4, 5, 6, 7, 9, 11, 13, 16),
        12: (*range(1, 9), 10, 12, 14, 16),
        13: _THIRTEEN,
        14: (*range(1, 13), 14, 16),
    },
    24: {11: (*_TEN, 24)},
    32: {12: (*_TEN, 23, 32), 15: (*_THIRTEEN, 23, 32)},
}
BASE, USUAL = 16, 10
# The most by which the cells of a grid outnumber those before it in all published lists: 1 to 4.
MOST_GROWTH = 4
# The short lists double their sides early on, and rounding down in another shape near 16x16 makes
# that up to 7.5 times the cells.
SHORT_LIST, MOST_GROWTH_OF_SHORT = 7, 8


def most_steps(last: Grid) -> int:
    """How many distinct grids can lead from 1x1 to ``last``: one more row or column each."""
    return last.h + last.w - 1


def usual_steps(last: Grid, at_16: int = USUAL) -> int:
    """10 steps at 16 cells a side, one more for each half octave: 11 at 24, 12 at 32.

    at_16: another number at 16, from which the others follow.
    """
    side = math.sqrt(last.h * last.w)
    return max(min(2, max(last)), min(max(last), round(at_16 + 2 * math.log2(side / 16))))


def ladder(last: Grid, steps: int | None = None) -> Layout:
    """The list of ``steps`` grids up to ``last``; the usual number unless given.

    The published list where there is one. For another size the published aspect-ratio rule,
    (floor(h s/16), floor(w s/16)) for each side s of the list for 16, from 1x1 on, as long as no
    grid repeats and none has over four times the cells of the one before (eight in lists of up to
    seven). For all else the same rule over a geometric row of sides, up to the side of the square
    of as many cells; where that repeats a grid, up to the longer side. More steps than the longer
    side has cells take a staircase, which grows by rows and columns in turn.
    Raises `FlexvarError` for less than 1 step and for more than there are distinct grids.
    """
    if steps is None:
        steps = usual_steps(last)
    check_steps(steps, last)
    if last.h == last.w and steps in PUBLISHED.get(last.h, {}):
        return Layout.of(*PUBLISHED[last.h][steps])
    if steps in PUBLISHED[BASE]:
        layout = scaled(last, PUBLISHED[BASE][steps])
        most = MOST_GROWTH if steps > SHORT_LIST else MOST_GROWTH_OF_SHORT
        if distinct(layout) and growth(layout) <= most:
            return layout
    middle = round(math.sqrt(last.cells))
    if steps <= middle:
        layout = scaled(last, geometric(middle, steps))
        if distinct(layout):
            return layout
    if steps <= max(last):
        return scaled(last, geometric(max(last), steps))
    path = staircase(last)
    return Layout(tuple(path[place - 1] for place in geometric(len(path), steps)))


def staircase(last: Grid) -> list[Grid]:
    """All grids from 1x1 to ``last`` by one more row or column at a time, nearest its shape."""
    rows = [(row / last.h, 0) for row in range(1, last.h)]
    columns = [(column / last.w, 1) for column in range(1, last.w)]
    sides, path = [1, 1], [Grid(1, 1)]
    for _, side in sorted(rows + columns):
        sides[side] += 1
        path.append(Grid(*sides))
    return path


def scaled(last: Grid, sides: Sequence[int]) -> Layout:
    """``last`` shrunk by each side over the last side, the first one to 1x1."""
    grids = [in_shape(last, side, sides[-1]) for side in sides]
    return Layout((Grid(1, 1), *grids[1:])) if len(grids) > 1 else Layout((last,))


def distinct(layout: Layout) -> bool:
    """Whether no grid stands twice."""
    return len(set(layout.grids)) == len(layout)


def growth(layout: Layout) -> float:
    """The most by which the cells of a grid outnumber those of the one before."""
    return max((b.cells / a.cells for a, b in pairwise(layout.grids)), default=1.0)


def in_shape(last: Grid, side: int, of: int) -> Grid:
    """``last`` shrunk by side/of, rounded down, at least 1."""
    return Grid(max(1, last.h * side // of), max(1, last.w * side // of))


def geometric(last: int, steps: int) -> list[int]:
    """``steps`` rising whole numbers from 1 to ``last``, as near a geometric row as they get."""
    if steps == 1:
        return [last]
    result: list[int] = []
    for step in range(steps):
        wanted = round(last ** (step / (steps - 1)))
        least = result[-1] + 1 if result else 1
        result.append(min(max(wanted, least), last - (steps - 1 - step)))
    return result


def check_steps(steps: int, last: Grid) -> None:
    """Raise `FlexvarError` unless ``steps`` grids can lead from 1x1 to ``last``."""
    least = 1 if last == (1, 1) else 2
    if steps < least:
        raise FlexvarError(
            f"steps: got {steps}; a {last} latent needs at least {least}, and takes at most "
            f"{most_steps(last)}."
        )
    if steps > most_steps(last):
        raise FlexvarError(
            f"steps: got {steps}; a {last} latent has {most_steps(last)} distinct grids from 1x1 "
            f"on, so at most {most_steps(last)} steps."
        )


class LadderConfig(ComponentConfig):
    """Options of `Ladder`.

    steps: how many grids lead to 16 cells a side where no number is asked for.
    """

    steps: int = Field(default=USUAL, ge=3)


class Ladder:
    """Deterministic lists for any size and number of steps; see `ladder`."""

    Config: ClassVar[type[ComponentConfig]] = LadderConfig

    def __init__(self, config: LadderConfig, *, facts: Facts) -> None:
        del facts
        self.config = config

    def grids(self, last: Grid, *, steps: int | None = None, rng: Rng | None = None) -> Layout:
        """The list up to ``last``; ``rng`` changes nothing."""
        del rng
        last = Grid(*last)
        return ladder(last, steps or usual_steps(last, self.config.steps))
