"""The paper's lists of steps by size and number, and lists alike for any other."""

from __future__ import annotations

import math
from typing import ClassVar

from flexvar.config import ComponentConfig
from flexvar.errors import FlexvarError
from flexvar.layout import Grid, Layout
from flexvar.protocols import Facts, Rng

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
BASE = 16


def most_steps(last: Grid) -> int:
    """How many distinct grids lead from 1x1 to ``last`` in its shape: one per longer side."""
    return max(last)


def usual_steps(last: Grid) -> int:
    """10 steps at 16 cells a side, one more for each half octave: 11 at 24, 12 at 32."""
    side = math.sqrt(last.h * last.w)
    return max(1, min(most_steps(last), round(10 + 2 * math.log2(side / 16))))


def ladder(last: Grid, steps: int | None = None) -> Layout:
    """The list of ``steps`` grids up to ``last``; the usual number unless given.

    The published list where there is one. For another shape the published aspect-ratio rule,
    (floor(h s/16), floor(w s/16)) for each side s of the list for 16, as far as it starts at
    1x1 and repeats nothing. For all else, longer sides in a geometric row, and the shorter side
    in proportion.
    Raises `FlexvarError` for less than 1 step and for more than there are distinct grids.
    """
    if steps is None:
        steps = usual_steps(last)
    check_steps(steps, last)
    if last.h == last.w and steps in PUBLISHED.get(last.h, {}):
        return Layout.of(*PUBLISHED[last.h][steps])
    if steps in PUBLISHED[BASE]:
        by_rule = tuple(in_shape(last, side, BASE) for side in PUBLISHED[BASE][steps])
        if by_rule[0] == (1, 1) and len(set(by_rule)) == steps:
            return Layout(by_rule)
    longer = max(last)
    return Layout(tuple(in_shape(last, side, longer) for side in geometric(longer, steps)))


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
    """`Ladder` has no options."""


class Ladder:
    """Deterministic lists for any size and number of steps; see `ladder`."""

    Config: ClassVar[type[ComponentConfig]] = LadderConfig

    def __init__(self, config: LadderConfig, *, facts: Facts) -> None:
        del config, facts

    def grids(self, last: Grid, *, steps: int | None = None, rng: Rng | None = None) -> Layout:
        """The list up to ``last``; ``rng`` changes nothing."""
        del rng
        return ladder(Grid(*last), steps)
