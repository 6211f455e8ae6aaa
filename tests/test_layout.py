"""Layouts are plain data; what a model needs of them is a check of its own."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flexvar import FlexvarError, Grid, Layout
from flexvar.sequence import split, targets

grids = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=6)


@given(grids)
def test_slices_tile_the_sequence(sizes):
    layout = Layout.of(*sizes)
    covered = [index for part in layout.slices for index in range(part.start, part.stop)]
    assert covered == list(range(layout.tokens))
    assert [part.stop - part.start for part in layout.slices] == [g.cells for g in layout]


@given(grids)
def test_split_undoes_targets(sizes):
    layout = Layout.of(*sizes)
    maps = split(torch.arange(2 * layout.tokens).view(2, -1), layout)
    assert [tuple(m.shape[1:]) for m in maps] == [tuple(g) for g in layout]
    assert torch.equal(targets(maps).flatten(), torch.arange(2 * layout.tokens))


def test_squares_are_written_short():
    layout = Layout.of(1, 2, (4, 6))
    assert layout.grids == (Grid(1, 1), Grid(2, 2), Grid(4, 6))
    assert str(layout) == "1, 2, 4x6"
    assert layout == Layout(((1, 1), (2, 2), (4, 6)))
    assert len({layout, Layout.of(1, 2, (4, 6))}) == 1


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ([2, 4], "starts from 1x1"),
        ([1, (4, 2), (3, 4)], "Grid 3x4 is smaller than 4x2"),
        ([1, 2, 2], "stands twice"),
    ],
)
def test_what_no_model_can_predict(sizes, message):
    with pytest.raises(FlexvarError, match=message):
        Layout.of(*sizes).check_for_model()


def test_empty_layouts_and_grids():
    with pytest.raises(FlexvarError, match="at least one grid"):
        Layout(())
    with pytest.raises(FlexvarError, match="Grid 0x3 is empty"):
        Layout.of((0, 3))
