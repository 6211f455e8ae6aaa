"""Any size: smooth step lists, positions beyond their list, large pictures, and how they come."""

import re
import warnings
from collections import Counter
from itertools import pairwise

import pytest
import torch
from commands import command
from flexvar_plugins.positions.per_scale import PerScale
from flexvar_plugins.schedules.explicit import Explicit
from flexvar_plugins.schedules.ladder import growth, ladder
from helpers import TINY, TINY_CNN, Golden, shake
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from flexvar import Facts, FlexvarError, Grid, Layout, Pipeline
from flexvar.images import animate, strip
from flexvar.ops.tiled_decode import blended, decode
from flexvar.scales import Scales

FACTS = Facts(vocab_size=10, code_dim=4, width=48, head_dim=24, num_classes=3)


@st.composite
def targets(draw):
    """A size from 1:4 to 4:1, and from half to four times the side of 16 cells."""
    side, shape = draw(st.floats(8, 64)), draw(st.floats(-1, 1))
    return Grid(round(side * 2**shape), round(side / 2**shape))


def in_shape(grid: Grid, last: Grid) -> bool:
    """Whether some factor shrinks ``last`` to ``grid``: sides rounded down, but at least 1."""
    low = max((grid.h > 1) * grid.h / last.h, (grid.w > 1) * grid.w / last.w)
    return low < min((grid.h + 1) / last.h, (grid.w + 1) / last.w)


@given(targets(), st.data())
@settings(deadline=None)
def test_step_lists_have_the_shape_of_their_size(last, data):
    steps = data.draw(st.none() | st.integers(4, max(last)))
    layout = ladder(last, steps)
    layout.check_for_model()
    assert layout.last == last
    assert all(in_shape(grid, last) for grid in layout)
    turned = ladder(Grid(last.w, last.h), steps)
    assert turned.grids == tuple(Grid(grid.w, grid.h) for grid in layout)


@given(targets())
@settings(deadline=None)
def test_the_usual_number_of_steps_grows_smoothly(last):
    layout = ladder(last)
    # No step has more than four times the cells of the one before, which 1x1 to 2x2 has.
    assert growth(layout) <= 4
    # In the finer half, where the tokens are, no side more than doubles.
    for before, after in list(pairwise(layout))[len(layout) // 2 :]:
        assert max(after.h / before.h, after.w / before.w) <= 2


def test_neighbouring_sizes_have_neighbouring_lists():
    """A column more moves a grid by a few cells at most: 3 in 99 % of sizes, where the rule for
    the list stays; 9 where it changes."""
    moved = Counter()
    for h in range(4, 129, 3):
        for w in range(max(4, h // 4), min(128, 4 * h)):
            if not 64 <= h * w <= 4096 or not 0.25 <= h / w <= 4:
                continue
            here = ladder(Grid(h, w))
            there = ladder(Grid(h, w + 1), len(here))
            moved[
                max(abs(a.h - b.h) + abs(a.w - b.w) for a, b in zip(here, there, strict=True))
            ] += 1
    assert max(moved) <= 9
    assert sum(count for by, count in moved.items() if by <= 3) > 0.99 * moved.total()


# Models made for one list.


def test_interpolated_positions():
    position = PerScale(PerScale.Config(grids=(1, 2, 4)), facts=FACTS)
    free = position.any_layout()
    assert position.layouts == (Layout.of(1, 2, 4),)
    assert free.layouts is None
    assert free.table is position.table
    own = position(Layout.of(1, 2, 4)).add_LD
    torch.testing.assert_close(free(Layout.of(1, 2, 4)).add_LD, own)
    torch.testing.assert_close(free(Layout.of(1, 4)).add_LD, own[[0, *range(5, 21)]])
    wide = free(Layout.of(1, (4, 7))).add_LD[1:].unflatten(0, (4, 7))
    # The known grid spans the new one from corner to corner, with its own step vector.
    torch.testing.assert_close(wide[:, ::2], own[5:].unflatten(0, (4, 4)))
    middle = own[5:].unflatten(0, (4, 4)).unfold(1, 2, 1).mean(-1)
    torch.testing.assert_close(wide[:, 1::2], middle)
    made = PerScale(PerScale.Config(grids=(1, 2, 4), interpolate=True), facts=FACTS)
    assert made.layouts is None


def test_a_list_falls_back_to_a_ladder():
    schedule = Explicit(Explicit.Config(grids=(1, 2, 3, 5)), facts=FACTS).any_layout()
    assert schedule.grids(Grid(5, 5)) == Layout.of(1, 2, 3, 5)
    assert schedule.grids(Grid(9, 14)) == ladder(Grid(9, 14), 4)
    assert schedule.grids(Grid(2, 2)) == Layout.of(1, 2)
    assert len(schedule.grids(Grid(5, 5), steps=5)) == 5


def test_any_size_has_to_be_asked_for(golden: Golden):
    pipe, size = golden.pipe, (48, 112)
    if golden.name == "flexvar":
        assert pipe(3, size=size, seed=0).maps[-1].shape == (1, 3, 7)
        return
    pipe = Pipeline(pipe.parts, pipe.config, pipe.settings)  # that has not warned yet
    with pytest.raises(FlexvarError, match="not at 3x7.*any_size=True takes it all the same"):
        pipe(3, size=size)
    with pytest.raises(FlexvarError, match="any_size=True interpolates the positions"):
        pipe(3, steps=[1, 2, 4], seed=0)
    with pytest.warns(UserWarning, match="The positions of 1, .* are interpolated"):
        result = pipe(3, size=size, any_size=True, seed=0)
    assert result.maps[-1].shape == (1, 3, 7)
    assert result.images[0].size == (112, 48)
    own = golden.layout.last
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = [pipe(3, size=own.h * 16, any_size=free, seed=0) for free in (False, True)]
    assert same[0].images[0].tobytes() == same[1].images[0].tobytes()
    with pytest.raises(FlexvarError, match="not at 3x7"):
        pipe(3, size=size)


# Large pictures.


def tokenizer_of(name: str, **options):
    config = {"tokenizer": {"name": name, **TINY_CNN, "channel_multipliers": [1, 2, 1], **options}}
    return Pipeline.from_config(config, seed=4).tokenizer


@pytest.mark.parametrize("name", ["multiscale", "residual"])
@pytest.mark.parametrize("grid", [(1, 1), (3, 19), (17, 5), (24, 33)])
@torch.no_grad()
def test_tiles_make_the_same_picture(name, grid):
    tokenizer = tokenizer_of(name)
    latent = torch.randn(2, 8, *grid, generator=torch.Generator().manual_seed(0))
    whole = tokenizer.decode(latent)
    for tile in (4, 8, 24):
        torch.testing.assert_close(decode(tokenizer, latent, tile), whole, atol=2e-4, rtol=0)
    assert torch.equal(decode(tokenizer, latent, 0), whole)


def test_small_pictures_are_decoded_whole_and_large_ones_in_tiles(tiny, monkeypatch):
    latent = torch.randn(1, 8, 20, 30)
    whole = tiny.decode(latent)
    seen = []
    cls = type(tiny.tokenizer)
    monkeypatch.setattr(cls, "decode_tiles", lambda self, x, cells: seen.append(cells) or x[:, :3])
    assert torch.equal(tiny.decode(latent), whole)
    assert not seen
    monkeypatch.setattr("flexvar.ops.tiled_decode.WHOLE", 20 * 30 * 16 - 1)
    monkeypatch.setattr("flexvar.ops.tiled_decode.TILE", 64)
    tiny.decode(latent)
    assert seen == [16]
    with pytest.raises(FlexvarError, match="tile: got 3; expected 0, or at least the 4 pixels"):
        tiny.decode(latent, tile=3)


def test_tiles_reach_the_call(tiny):
    whole, tiled = (tiny(1, size=(24, 40), seed=0, tile=t, output="tensor") for t in (0, 8))
    torch.testing.assert_close(whole.images, tiled.images, atol=2e-4, rtol=0)
    assert tiled.images.shape == (1, 3, 24, 40)


class Plain:
    """A tokenizer of a third party, that decodes cell by cell and knows nothing of tiles."""

    def __init__(self, space):
        self.space = space

    def decode(self, latent_BChw):
        return latent_BChw[:, :3].repeat_interleave(4, 2).repeat_interleave(4, 3)


def test_any_tokenizer_is_decoded_in_tiles(tiny):
    tokenizer = Plain(tiny.tokenizer.space)
    latent = torch.randn(2, 8, 23, 31)
    for tile in (4, 12, 64):
        torch.testing.assert_close(decode(tokenizer, latent, tile), tokenizer.decode(latent))
    # Tiles of another brightness fade into each other.
    steps = blended(tokenizer, torch.arange(40.0).expand(1, 8, 1, 40).contiguous(), 16)
    assert steps.diff(dim=3).max() <= 1.01


# How a picture comes about.


def test_scales_are_seen_one_by_one(tiny, tmp_path):
    scales = Scales()
    result = tiny([1, 2], size=(24, 40), seed=0, on_scale=scales)
    rows = scales.pictures(tiny)
    assert [len(row) for row in rows] == [len(result.maps)] * 2
    assert {picture.size for row in rows for picture in row} == {(40, 24)}
    assert [row[-1].tobytes() for row in rows] == [image.tobytes() for image in result.images]
    assert strip(rows[0]).size == (len(result.maps) * 42 - 2, 24)
    for name in ("a.webp", "a.gif"):
        with Image.open(animate(rows[0], tmp_path / name)) as film:
            assert film.n_frames == len(result.maps)
            assert film.size == (40, 24)
    with pytest.raises(FlexvarError, match="a.png: an animation ends in .webp or .gif"):
        animate(rows[0], tmp_path / "a.png")
    with pytest.raises(FlexvarError, match="give this object as on_scale"):
        Scales().pictures(tiny)


def test_scales_of_a_residual_tokenizer():
    config = {**TINY, "tokenizer": {"name": "residual", **TINY_CNN}}
    pipe, scales = shake(Pipeline.from_config(config)), Scales()
    result = pipe(1, size=16, seed=0, soft=True, on_scale=scales)
    (row,) = scales.pictures(pipe)
    assert row[-1].tobytes() == result.images[0].tobytes()


def test_the_command_shows_scales(tiny_dir, tmp_path):
    done = command("flexvar", "generate", "--model", tiny_dir, "--label", "cat",
                   "--size", "16x24", "--seed", "3", "--tile", "8", "--any-size", "--show-scales",
                   "--out", tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.search("1 image of 16x24 px", done.stdout)
    assert Image.open(tmp_path / "00000-scales.png").size == (6 * 26 - 2, 16)
    with Image.open(tmp_path / "00000-scales.webp") as film:
        assert film.n_frames == 6
