"""Grid and Layout: the scales of one sequence, coarse to fine.

Shape suffixes used all over flexvar: B batch, L tokens, h w latent grid, H W pixels,
C code dimension, D model width, V vocabulary, K scales, R rotary angles.
``x_BLD`` has axes batch, tokens, width, in that order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from flexvar.errors import FlexvarError


class Grid(NamedTuple):
    """Rows and columns of latent cells."""

    h: int
    w: int

    @property
    def cells(self) -> int:
        """Number of tokens in the grid."""
        return self.h * self.w

    def __str__(self) -> str:
        return f"{self.h}x{self.w}"


@dataclass(frozen=True)
class Layout:
    """The grids of a sequence of token maps, coarse to fine.

    A layout is plain data: any non-empty tuple of non-empty grids. What a model needs beyond
    that (a first grid of 1x1, no side that shrinks, no repeated grid) is `check_for_model`.
    """

    grids: tuple[Grid, ...]
    # Where the tokens of each scale stand in the sequence, and its length L. Plain fields, so that
    # a compiler can read them.
    slices: tuple[slice, ...] = field(init=False, compare=False, repr=False)
    tokens: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        grids = tuple(Grid(*grid) for grid in self.grids)
        object.__setattr__(self, "grids", grids)
        if not grids:
            raise FlexvarError("A layout needs at least one grid, for example Layout.of(1, 2, 4).")
        for grid in grids:
            if grid.h < 1 or grid.w < 1:
                raise FlexvarError(f"Grid {grid} is empty; rows and columns are at least 1.")
        slices, start = [], 0
        for grid in grids:
            slices.append(slice(start, start + grid.cells))
            start += grid.cells
        object.__setattr__(self, "slices", tuple(slices))
        object.__setattr__(self, "tokens", start)

    @classmethod
    def of(cls, *sides: int | tuple[int, int]) -> Layout:
        """The layout of these grids; a number is a square: ``Layout.of(1, 2, 4, (4, 6))``."""
        return cls(tuple(Grid(s, s) if isinstance(s, int) else Grid(*s) for s in sides))

    @property
    def last(self) -> Grid:
        """The finest grid."""
        return self.grids[-1]

    def check_for_model(self) -> None:
        """Raise unless a model can predict it: from 1x1 on, no side shrinks, no grid repeats."""
        if self.grids[0] != (1, 1):
            raise FlexvarError(
                f"The first grid is {self.grids[0]}, but generation starts from 1x1; "
                f"put 1 in front: {self}."
            )
        for before, after in zip(self.grids, self.grids[1:], strict=False):
            if after.h < before.h or after.w < before.w:
                raise FlexvarError(
                    f"Grid {after} is smaller than {before} before it; "
                    f"scales go from coarse to fine: {self}."
                )
            if after == before:
                raise FlexvarError(f"Grid {after} stands twice in the layout {self}.")

    def __len__(self) -> int:
        return len(self.grids)

    def __iter__(self) -> Iterator[Grid]:
        return iter(self.grids)

    def __getitem__(self, index: int) -> Grid:
        return self.grids[index]

    def __str__(self) -> str:
        return ", ".join(str(g.h) if g.h == g.w else str(g) for g in self.grids)
