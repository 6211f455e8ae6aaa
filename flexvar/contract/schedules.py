"""What a step schedule has to do by itself."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from itertools import pairwise
from typing import cast

import numpy as np
import torch

from flexvar.components import Facts, Rng, StepSchedule
from flexvar.contract.measure import (
    ContractViolation,
    demand,
    demand_members,
    global_seed,
    unchanged,
)
from flexvar.contract.variant import Variant
from flexvar.errors import FlexvarError
from flexvar.layout import Grid, Layout

# Last grids a schedule is asked for; it may refuse some, not all.
LASTS = tuple(
    Grid(*last)
    for last in (
        *((4, 4), (1, 1), (2, 2), (5, 5), (3, 5), (6, 4), (1, 7), (9, 2)),
        *((8, 8), (12, 20), (16, 16), (16, 32), (24, 24), (32, 32)),
    )
)


def schedule_of(variant: Variant) -> StepSchedule:
    """The schedule."""
    schedule = variant.build(Facts(50, 8, 64, 32, 5))
    demand_members(schedule, StepSchedule)
    return cast(StepSchedule, schedule)


def taken(schedule: StepSchedule) -> list[Grid]:
    """The last grids it takes. Demands that it takes one of them."""
    found = []
    for last in LASTS:
        try:
            schedule.grids(last)
        except FlexvarError:
            continue
        found.append(last)
    tried = ", ".join(map(str, LASTS))
    demand(bool(found), f"it takes none of the last grids tried: {tried}")
    return found


def check_list(layout: Layout, last: Grid, what: str) -> None:
    """Demand that a list leads from 1x1 to ``last``, shrinks nowhere and repeats nothing."""
    demand(isinstance(layout, Layout), f"{what}: {type(layout).__name__}, not a flexvar.Layout")
    demand(layout[0] == (1, 1), f"{what}: the list {layout} starts at {layout[0]}, not at 1x1")
    demand(layout.last == last, f"{what}: the list {layout} ends at {layout.last}")
    for a, b in pairwise(layout):
        demand(a.h <= b.h and a.w <= b.w, f"{what}: {b} after {a} shrinks, in {layout}")
    repeated = len(layout) - len(set(layout))
    demand(repeated == 0, f"{what}: {repeated} grids stand twice in {layout}")


def leads_to_the_asked_grid(variant: Variant) -> None:
    """Lists are right for every size, the same every time, and as long as asked."""
    schedule = schedule_of(variant)
    with unchanged(schedule=schedule):
        for last in taken(schedule):
            for steps in (None, *range(1, 16)):
                what = f"asked for {last}" + (f" in {steps} steps" if steps else "")
                try:
                    with global_seed(0):
                        layout = schedule.grids(last, steps=steps)
                except FlexvarError:
                    continue
                check_list(layout, last, what)
                demand(steps is None or len(layout) == steps, f"{what}: got {len(layout)} grids")
                with global_seed(1):
                    again = schedule.grids(last, steps=steps)
                demand(layout == again, f"{what}: {layout} once and {again} another time")


def too_many_steps_are_refused(variant: Variant) -> None:
    """More steps than there can be grids: a `FlexvarError` with the most there can be."""
    schedule = schedule_of(variant)
    for last in taken(schedule):
        # Without repeats, each grid adds a row or a column.
        many = last.h + last.w
        try:
            found = schedule.grids(last, steps=many)
        except FlexvarError as error:
            numbers = {int(text) for text in re.findall(r"\d+", str(error))}
        else:
            raise ContractViolation(f"asked for {last} in {many} steps: gave {found}")
        named = any(
            _takes(schedule, last, n) and not _takes(schedule, last, n + 1)
            for n in numbers
            if n > 0
        )
        demand(
            named,
            f"asked for {last} in {many} steps: the error names not the most there can "
            f"be, but {sorted(numbers)}",
        )


def _takes(schedule: StepSchedule, last: Grid, steps: int) -> bool:
    try:
        return bool(schedule.grids(last, steps=steps))
    except FlexvarError:
        return False


def random_lists_follow_the_seed(variant: Variant) -> None:
    """With ``rng``, lists are right too, and the same for the same seed whatever else is random:
    so on every rank.
    """
    schedule = schedule_of(variant)
    sources: dict[str, Callable[[int], Rng]] = {
        "random.Random": random.Random,
        "numpy.random.Generator": np.random.default_rng,
        "torch.Generator": lambda seed: torch.Generator().manual_seed(seed),
    }
    for last in taken(schedule):
        for kind, source in sources.items():
            ranks: list[list[Layout]] = []
            for rank in range(2):
                rng = source(7)
                with global_seed(rank), unchanged(schedule=schedule):
                    ranks.append([schedule.grids(last, rng=rng) for _ in range(20)])
            for number, (one, other) in enumerate(zip(*ranks, strict=True)):
                what = f"asked for {last} with a {kind}, draw {number}"
                check_list(one, last, what)
                demand(one == other, f"{what}: {one} on one rank and {other} on another")
