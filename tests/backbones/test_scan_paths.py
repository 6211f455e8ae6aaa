"""Scan paths: each visits every cell once, zigzags go to neighbours, tables compose."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from flexvar_plugins.backbones import scan_paths
from flexvar_plugins.backbones.scan_paths import PATHS, ZIGZAG8
from hypothesis import given
from hypothesis import strategies as st

from flexvar.layout import Grid, Layout

CPU = torch.device("cpu")
grids = st.builds(Grid, st.integers(1, 12), st.integers(1, 12))


@given(grids, st.sampled_from(PATHS))
def test_path_visits_every_cell_once(grid, path):
    assert sorted(scan_paths.order(path, grid)) == list(range(grid.cells))


@given(grids, st.sampled_from(ZIGZAG8))
def test_zigzag_moves_to_a_neighbour_at_each_step(grid, path):
    rows, columns = np.divmod(scan_paths.order(path, grid), grid.w)
    assert (np.abs(np.diff(rows)) + np.abs(np.diff(columns)) == 1).all()


@given(st.builds(Grid, st.integers(2, 12), st.integers(2, 12)))
def test_eight_layers_cover_four_corners_in_both_orders(grid):
    seen = set()
    for path in ZIGZAG8:
        first, second = scan_paths.order(path, grid)[:2]
        seen.add((int(first), "row" if first // grid.w == second // grid.w else "column"))
    corners = {0, grid.w - 1, grid.cells - grid.w, grid.cells - 1}
    assert seen == {(corner, order) for corner in corners for order in ("row", "column")}


def test_named_paths_are_what_they_say():
    grid = Grid(2, 3)  # 0 1 2 / 3 4 5
    assert scan_paths.order("raster", grid).tolist() == [0, 1, 2, 3, 4, 5]
    assert scan_paths.order("top_left_rows", grid).tolist() == [0, 1, 2, 5, 4, 3]
    assert scan_paths.order("top_left_columns", grid).tolist() == [0, 3, 4, 1, 2, 5]
    assert scan_paths.order("top_right_rows", grid).tolist() == [2, 1, 0, 3, 4, 5]
    assert scan_paths.order("bottom_right_columns", grid).tolist() == [5, 2, 1, 4, 3, 0]
    assert scan_paths.order("bottom_left_rows", grid).tolist() == [3, 4, 5, 2, 1, 0]


@given(
    st.lists(grids, min_size=1, max_size=5),
    st.lists(st.sampled_from(PATHS), min_size=1, max_size=9),
)
def test_gathers_compose_to_each_layers_order_and_back(sizes, paths):
    layout = Layout(tuple(sizes))
    raster_1L1 = torch.arange(layout.tokens)[None, :, None]
    *before, back = scan_paths.gathers(paths, layout.grids, CPU)
    x_1L1 = raster_1L1
    for path, gather in zip(paths, before, strict=True):
        x_1L1 = scan_paths.permute(x_1L1, gather)
        for grid, part in zip(layout, layout.slices, strict=True):
            expected = part.start + scan_paths.order(path, grid)
            assert x_1L1[0, part, 0].tolist() == expected.tolist()
    assert torch.equal(scan_paths.permute(x_1L1, back), raster_1L1)


def test_nothing_is_gathered_where_nothing_moves():
    grids_ = Layout.of(1, 2, (3, 5)).grids
    assert scan_paths.gathers(["raster", "raster"], grids_, CPU) == (None, None, None)
    assert scan_paths.gathers(ZIGZAG8, Layout.of(1).grids, CPU) == (None,) * 9


def test_tables_made_while_generating_serve_training_too():
    layout = Layout.of(1, (7, 11))
    with torch.inference_mode():
        scan_paths.gathers(["top_right_rows"], layout.grids, CPU)
    gather, _ = scan_paths.gathers(["top_right_rows"], layout.grids, CPU)
    x_BLD = torch.randn(1, layout.tokens, 2, requires_grad=True)
    scan_paths.permute(x_BLD, gather).sum().backward()
    assert torch.equal(x_BLD.grad, torch.ones_like(x_BLD))


def test_paths_by_name_number_and_list():
    assert scan_paths.choose("zigzag8") == ZIGZAG8
    assert scan_paths.choose("raster") == ("raster",)
    assert scan_paths.choose(3) == (ZIGZAG8[3],)
    assert scan_paths.choose([0, "raster", "top_left_columns"]) == (
        "top_left_rows",
        "raster",
        "top_left_columns",
    )


@pytest.mark.parametrize("wrong", ["spiral", 8, -1, [0, "spiral"], True, [1.5]])
def test_unknown_path_names_the_choices(wrong):
    with pytest.raises(ValueError, match=r"unknown scan path .*zigzag8.*top_left_rows.*0 to 7"):
        scan_paths.choose(wrong)


def test_an_empty_list_of_paths_is_an_error():
    with pytest.raises(ValueError, match="no scan path given; choose 'zigzag8'"):
        scan_paths.choose([])
