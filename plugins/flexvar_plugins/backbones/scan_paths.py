"""The orders in which a state-space layer visits the cells of a grid, as index tables.

A zigzag (snake) path starts in a corner and walks row by row or column by column, turning round
at each end, so that every step goes to a neighbouring cell (ZigMa, arXiv 2403.13802, section
3.2). Four corners, two directions: eight paths. Cells are numbered row-major, which is the order
of tokens everywhere else in flexvar. Tokens are only permuted inside their own scale.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flexvar.layout import Grid

Path = Literal[
    "top_left_rows",
    "bottom_right_rows",
    "top_left_columns",
    "bottom_right_columns",
    "top_right_rows",
    "bottom_left_rows",
    "top_right_columns",
    "bottom_left_columns",
    "raster",
]
PATHS: tuple[Path, ...] = get_args(Path)
# Neighbouring layers walk towards each other, so that after two of them every token has seen
# its whole scale, and after four of them along both axes; this matters for shallow models.
ZIGZAG8: tuple[Path, ...] = PATHS[:8]

Table = NDArray[np.int64]


def choose(paths: str | int | Sequence[str | int]) -> tuple[Path, ...]:
    """The paths that an option means: ``zigzag8``, one name or number, or a list of them.

    Numbers 0 to 7 count the zigzag paths in the order of `ZIGZAG8`; ``raster`` is plain row-major
    order. Raises ValueError for anything else.
    """
    if paths == "zigzag8":
        return ZIGZAG8
    items = [paths] if isinstance(paths, str | int) else list(paths)
    chosen: list[Path] = []
    for item in items:
        known = {name: name for name in PATHS} | dict(enumerate(ZIGZAG8))
        if isinstance(item, bool) or item not in known:
            raise ValueError(
                f"unknown scan path {item!r}; choose 'zigzag8' or a list of: "
                f"{', '.join(PATHS)}, or their numbers 0 to 7"
            )
        chosen.append(known[item])
    if not chosen:
        raise ValueError("no scan path given; choose 'zigzag8' or a list of paths")
    return tuple(chosen)


@lru_cache(maxsize=1024)
def order(path: Path, grid: Grid) -> Table:
    """The row-major numbers of a grid's cells in the order of a path, (h*w,). Not to be written."""
    cells = np.arange(grid.cells).reshape(grid)
    if path != "raster":
        start, direction = path.rsplit("_", 1)
        cells = cells[::-1] if start.startswith("bottom") else cells
        cells = cells[:, ::-1] if start.endswith("right") else cells
        cells = (cells if direction == "rows" else cells.T).copy()
        cells[1::2] = cells[1::2, ::-1]  # every other line is walked backwards
    table = np.ascontiguousarray(cells).reshape(-1)
    table.flags.writeable = False
    return table


def between(before: Path, after: Path, grids: tuple[Grid, ...]) -> Table:
    """The gather (L,) that brings tokens in the order of one path into that of another.

    ``x_after = x_before[between(...)]``: the inverse of the first order and the second order in
    one, per scale.
    """
    tables, start = [], 0
    for grid in grids:
        rank = np.empty(grid.cells, dtype=np.int64)
        rank[order(before, grid)] = np.arange(grid.cells)
        tables.append(start + rank[order(after, grid)])
        start += grid.cells
    return np.concatenate(tables)


class _Tables:
    """Index tables on devices, the least used going first once they are more than ``most`` bytes.

    By bytes, not by number: training meets thousands of layouts with small tables, and a picture
    of a large size has few large ones.
    """

    def __init__(self, most: int) -> None:
        self.most, self.held = most, 0
        self.kept: OrderedDict[Hashable, tuple[int, list[Tensor | None]]] = OrderedDict()

    def get(
        self, key: Hashable, make: Callable[[], list[Table]], device: torch.device
    ) -> list[Tensor | None]:
        """The tables of a key, made and copied to the device in one piece at first use."""
        if key in self.kept:
            self.kept.move_to_end(key)
            return self.kept[key][1]
        tables = make()
        moving = [not np.array_equal(table, np.arange(len(table))) for table in tables]
        wanted = [table for table, moves in zip(tables, moving, strict=True) if moves]
        # They outlive the call: what is made in inference mode could not be used in training.
        with torch.inference_mode(False):
            joined = np.concatenate(wanted) if wanted else np.empty(0, dtype=np.int64)
            parts = iter(torch.from_numpy(joined).to(device).split([len(t) for t in wanted]))
        found = [next(parts) if moves else None for moves in moving]
        # Those of a simulation or a trace are not kept for others.
        if all(part is None or type(part) is Tensor for part in found):
            self.kept[key] = joined.nbytes, found
            self.held += joined.nbytes
            while self.held > self.most and len(self.kept) > 1:
                self.held -= self.kept.popitem(last=False)[1][0]
        return found


_tables = _Tables(most=64 * 2**20)


def gathers(
    paths: Sequence[Path], grids: tuple[Grid, ...], device: torch.device
) -> tuple[Tensor | None, ...]:
    """One gather before each layer and one after the last, int64 (L,); None where nothing moves.

    paths: that of each layer. The first gather takes row-major tokens to the first path, the
    last one takes them back. Tables are kept per list of paths, grids and device.
    """
    stops: list[Path] = ["raster", *paths, "raster"]
    pairs = list(pairwise(stops))
    different = list(dict.fromkeys(pairs))

    def make() -> list[Table]:
        return [between(before, after, grids) for before, after in different]

    found = _tables.get((tuple(different), grids, device), make, device)
    return tuple(found[different.index(pair)] for pair in pairs)


def by_scale(
    paths: Sequence[Path], grids: tuple[Grid, ...], device: torch.device
) -> list[tuple[Tensor | None, ...]]:
    """`gathers` of each grid by itself; all tables of a layout are one copy to the device."""
    stops: list[Path] = ["raster", *paths, "raster"]
    pairs = list(pairwise(stops))
    different = list(dict.fromkeys(pairs))

    def make() -> list[Table]:
        return [between(*pair, (grid,)) for grid in grids for pair in different]

    found = _tables.get(("by scale", tuple(different), grids, device), make, device)
    places = [different.index(pair) for pair in pairs]
    starts = range(0, len(found), len(different))
    return [tuple(found[start + place] for place in places) for start in starts]


def permute(x_BLD: Tensor, gather_L: Tensor | None) -> Tensor:
    """The tokens in the order of a gather, (B,L,D)."""
    return x_BLD if gather_L is None else x_BLD.index_select(1, gather_L)
