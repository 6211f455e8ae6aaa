"""One fixed list of grids, as VAR has."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from flexvar.components import Facts, Rng, StepSchedule
from flexvar.config import ComponentConfig
from flexvar.errors import FlexvarError
from flexvar.layout import Grid, Layout
from flexvar_plugins.schedules.ladder import ladder


class ExplicitConfig(ComponentConfig):
    """Options of `Explicit`. grids: each a side or [rows, columns], coarse to fine."""

    grids: tuple[int | tuple[int, int], ...] = Field(min_length=1)


class Explicit:
    """The given list, and no other."""

    Config: ClassVar[type[ComponentConfig]] = ExplicitConfig
    contract_options = ({"grids": (1, 2, (2, 3), 4)}, {"grids": (1, (3, 5))})

    def __init__(self, config: ExplicitConfig, *, facts: Facts) -> None:
        del facts
        self.layout = Layout.of(*config.grids)
        self.layout.check_for_model()

    def any_layout(self) -> StepSchedule:
        """A schedule for any size: this list where it fits, else a ladder of as many steps."""
        return _ListOrLadder(self.layout)

    def grids(self, last: Grid, *, steps: int | None = None, rng: Rng | None = None) -> Layout:
        """The list. Raises `FlexvarError` for another last grid or number of steps."""
        del rng
        if tuple(last) != self.layout.last:
            raise FlexvarError(
                f"This model's list of grids is {self.layout}: it ends at {self.layout.last}, "
                f"not at {Grid(*last)}. Ask for its own size; a model with learned2d positions "
                "and the schedule 'ladder' takes any. any_size=True takes it all the same, "
                "which nothing was trained for."
            )
        if steps is not None and steps != len(self.layout):
            raise FlexvarError(
                f"steps: got {steps}; this model's list of grids, {self.layout}, has "
                f"{len(self.layout)} - the least and the most there can be."
            )
        return self.layout


class _ListOrLadder:
    """The list at its own size; elsewhere the ladder, with as many steps if there can be."""

    Config: ClassVar[type[ComponentConfig]] = ExplicitConfig

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def grids(self, last: Grid, *, steps: int | None = None, rng: Rng | None = None) -> Layout:
        """The layout up to ``last``; ``rng`` changes nothing."""
        del rng
        last = Grid(*last)
        if last == self.layout.last and steps in (None, len(self.layout)):
            return self.layout
        # What a scale means hangs on its place in the list: VAR's refiners, and level vectors.
        return ladder(last, min(len(self.layout), max(last)) if steps is None else steps)
