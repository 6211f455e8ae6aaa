"""Infinity's lists of grids: one for each aspect ratio, cut at four sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Annotated, ClassVar

from flexvar_plugins.schedules.ladder import ladder
from pydantic import Field

from flexvar.components import Facts, Rng, StepSchedule
from flexvar.config import ComponentConfig
from flexvar.errors import FlexvarError
from flexvar.layout import Grid, Layout

# How many grids lead to 0.06, 0.25, 0.6 and 1 million pixels, of 16x16 px a cell.
STEPS = (7, 10, 12, 13)
PIXELS_PER_SIDE = 16
# Tall pictures of the ratios 1, 1.25, 1.333, 1.5, 1.75, 2, 2.5, 3: rows x columns.
_TALL = (
    "1x1 2x2 4x4 6x6 8x8 12x12 16x16 20x20 24x24 32x32 40x40 48x48 64x64",
    "1x1 2x2 3x3 5x4 10x8 15x12 20x16 25x20 30x24 35x28 45x36 55x44 70x56",
    "1x1 2x2 4x3 8x6 12x9 16x12 20x15 24x18 28x21 36x27 48x36 60x45 72x54",
    "1x1 2x2 3x2 6x4 9x6 15x10 21x14 27x18 33x22 39x26 48x32 63x42 78x52",
    "1x1 2x2 3x3 7x4 11x6 14x8 21x12 28x16 35x20 42x24 56x32 70x40 84x48",
    "1x1 2x2 4x2 6x3 10x5 16x8 22x11 30x15 38x19 46x23 60x30 74x37 90x45",
    "1x1 2x2 5x2 10x4 15x6 20x8 25x10 30x12 40x16 50x20 65x26 80x32 100x40",
    "1x1 2x2 6x2 9x3 15x5 21x7 27x9 36x12 45x15 54x18 72x24 90x30 111x37",
)
_LISTS = [[Grid(*map(int, grid.split("x"))) for grid in row.split()] for row in _TALL]
LISTS = tuple(_LISTS + [[Grid(grid.w, grid.h) for grid in row] for row in _LISTS[1:]])


class AspectListsConfig(ComponentConfig):
    """Options of `AspectLists`.

    steps: how many of the first grids of a list lead to a size; less than 7 are for small models.
    """

    steps: tuple[Annotated[int, Field(ge=1, le=max(STEPS))], ...] = Field(STEPS, min_length=1)


def layouts(steps: Sequence[int]) -> dict[Grid, Layout]:
    """The lists by their last grids; where two end alike, that of the ratio nearer to 1."""
    found: dict[Grid, Layout] = {}
    for row, count in product(LISTS, steps):
        found.setdefault(row[count - 1], Layout(tuple(row[:count])))
    return found


def nearest(last: Grid, steps: Sequence[int]) -> Layout:
    """The published list of the nearest ratio, and of that the nearest size."""
    ratio, cells = math.log(last.h / last.w), math.log(last.cells)
    # Ends of one list differ a little in ratio; they are compared by that of the largest.
    row = min(LISTS, key=lambda row: abs(math.log(row[-1].h / row[-1].w) - ratio))
    count = min(steps, key=lambda count: abs(math.log(row[count - 1].cells) - cells))
    return Layout(tuple(row[:count]))


class AspectLists:
    """The published list of a size, and no other (Infinity, arXiv 2412.04431, appendix)."""

    Config: ClassVar[type[ComponentConfig]] = AspectListsConfig
    contract_options = ({"steps": (3, 5, 7)},)

    def __init__(self, config: AspectListsConfig, *, facts: Facts) -> None:
        del facts
        self.steps, self.layouts = config.steps, layouts(config.steps)

    def any_layout(self) -> StepSchedule:
        """A schedule for any size: the nearest list, stretched to it."""
        return _AnyLists(self)

    def grids(self, last: Grid, *, steps: int | None = None, rng: Rng | None = None) -> Layout:
        """The list. Raises `FlexvarError` for another size, naming the nearest, or number."""
        del rng
        last = Grid(*last)
        if last not in self.layouts:
            near, side = nearest(last, self.steps).last, PIXELS_PER_SIDE
            counts = ", ".join(map(str, self.steps))
            raise FlexvarError(
                f"{last} is the last grid of none of Infinity's lists, which are of the ratios 1, "
                f"1.25, 1.333, 1.5, 1.75, 2, 2.5 and 3, cut to {counts} grids; "
                f"the nearest is {near}, {near.h * side}x{near.w * side} px at {side} px a cell. "
                "any_size=True takes it all the same, which nothing was trained for."
            )
        layout = self.layouts[last]
        if steps not in (None, len(layout)):
            raise FlexvarError(
                f"steps: got {steps}; the list to {last} has {len(layout)} grids - the least and "
                "the most there can be."
            )
        return layout


class _AnyLists:
    """The published list of a size; of others the nearest one stretched."""

    Config: ClassVar[type[ComponentConfig]] = AspectListsConfig

    def __init__(self, lists: AspectLists) -> None:
        self.lists = lists

    def grids(self, last: Grid, *, steps: int | None = None, rng: Rng | None = None) -> Layout:
        """The layout up to ``last``; ``rng`` changes nothing."""
        del rng
        last = Grid(*last)
        layout = self.lists.layouts.get(last) or stretched(nearest(last, self.lists.steps), last)
        return layout if steps in (None, len(layout)) else ladder(last, steps)


def stretched(layout: Layout, last: Grid) -> Layout:
    """A list led to another last grid, every grid in proportion and none twice."""
    end = layout.last
    grids = [
        Grid(max(1, round(h * last.h / end.h)), max(1, round(w * last.w / end.w)))
        for h, w in layout
    ]
    return Layout(tuple(dict.fromkeys([Grid(1, 1), *grids[1:]])))
