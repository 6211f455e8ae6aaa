"""What a step schedule must do: give the list of grids that leads to a size."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
import torch

from flexvar.config import ComponentConfig
from flexvar.layout import Grid, Layout

Rng = random.Random | np.random.Generator | torch.Generator


@runtime_checkable
class StepSchedule(Protocol):
    """The list of grids that leads to a size.

    ``grids(last)`` is deterministic; it starts at 1x1, ends with ``last``, never shrinks in
    either side and repeats no grid. ``steps`` asks for that many grids and raises a
    `FlexvarError` naming the most there can be if there are not that many. With ``rng`` it is
    a random layout for training.

    Optional: ``any_layout()``, a schedule for any size, where this one refuses some; ``layout``,
    the one list there is, whose last grid is a model's usual size.
    """

    Config: ClassVar[type[ComponentConfig]]

    def grids(self, last: Grid, *, steps: int | None = None, rng: Rng | None = None) -> Layout: ...


def uniform(rng: Rng) -> Callable[[], float]:
    """A function that draws numbers in [0,1) from any of the usual random sources."""
    if isinstance(rng, torch.Generator):
        return lambda: float(torch.rand((), generator=rng, device=rng.device))
    return lambda: float(rng.random())


def sample(items: Sequence[int], count: int, draw: Callable[[], float]) -> list[int]:
    """``count`` of ``items`` without replacement, in rising order."""
    keys = sorted(range(len(items)), key=[draw() for _ in items].__getitem__)
    return sorted(items[index] for index in keys[:count])
