"""Schedules: the published lists, the rules for all else, and random lists for training."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from flexvar_plugins.schedules.explicit import Explicit
from flexvar_plugins.schedules.ladder import PUBLISHED, Ladder, ladder, most_steps, usual_steps
from flexvar_plugins.schedules.random_steps import RandomSteps
from hypothesis import given
from hypothesis import strategies as st

from flexvar import Facts, FlexvarError, Grid, Layout

FACTS = Facts(10, 4, 8, 8, 2)
sizes = st.tuples(st.integers(1, 40), st.integers(1, 40)).map(lambda s: Grid(*s))


def make(cls, **options):
    return cls(cls.Config(**options), facts=FACTS)


@given(sizes, st.data())
def test_any_size_and_number_of_steps(last, data):
    least = 1 if last == (1, 1) else 2
    steps = data.draw(st.integers(least, most_steps(last)))
    layout = make(Ladder).grids(last, steps=steps)
    assert len(layout) == steps
    assert layout.last == last
    layout.check_for_model()


@given(sizes)
def test_too_many_steps_names_the_most(last):
    most = last.h + last.w - 1
    with pytest.raises(FlexvarError, match=f"at most {most} steps"):
        ladder(last, most + 1)
    assert 1 <= usual_steps(last) <= most


@pytest.mark.parametrize(
    ("side", "steps"), [(side, steps) for side, lists in PUBLISHED.items() for steps in lists]
)
def test_published_lists(side, steps):
    assert ladder(Grid(side, side), steps) == Layout.of(*PUBLISHED[side][steps])


def test_usual_number_of_steps():
    assert [usual_steps(Grid(s, s)) for s in (1, 2, 4, 8, 16, 24, 32)] == [1, 2, 4, 8, 10, 11, 12]


@pytest.mark.parametrize("last", [Grid(12, 20), Grid(16, 8), Grid(20, 12), Grid(24, 11)])
def test_aspect_ratio_rule(last):
    wanted = [Grid(max(1, last.h * s // 16), max(1, last.w * s // 16)) for s in PUBLISHED[16][10]]
    assert ladder(last, 10).grids == tuple(wanted)


def test_fewer_than_two_steps():
    with pytest.raises(
        FlexvarError, match="got 0; a 4x4 latent needs at least 2, and takes at most 7"
    ):
        ladder(Grid(4, 4), 0)
    assert ladder(Grid(1, 1)) == Layout.of(1)


def test_more_steps_than_the_longer_side_grow_by_rows_and_columns_in_turn():
    layout = ladder(Grid(6, 4), 9)
    assert str(layout) == "1, 2x1, 2, 3x2, 4x2, 4x3, 5x3, 5x4, 6x4"
    assert len(ladder(Grid(1, 7), 7)) == 7


def test_explicit_knows_one_list():
    schedule = make(Explicit, grids=(1, 2, (3, 5)))
    assert schedule.grids(Grid(3, 5)) == Layout.of(1, 2, (3, 5))
    with pytest.raises(FlexvarError, match="ends at 3x5, not at 4x4"):
        schedule.grids(Grid(4, 4))
    with pytest.raises(FlexvarError, match="steps: got 2; this model's list of grids, 1, 2, 3x5"):
        schedule.grids(Grid(3, 5), steps=2)


@given(sizes, st.integers(0, 2**31))
def test_the_papers_random_lists(last, seed):
    schedule = make(RandomSteps)
    layout = schedule.grids(last, rng=random.Random(seed))
    layout.check_for_model()
    assert layout.last == last
    assert len(layout) <= 10
    assert layout == schedule.grids(last, rng=random.Random(seed))


def test_random_lists_take_any_source():
    schedule = make(RandomSteps)
    for source in (lambda: np.random.default_rng(3), lambda: torch.Generator().manual_seed(3)):
        first, second = (schedule.grids(Grid(16, 16), rng=source()) for _ in range(2))
        assert first == second
    assert schedule.grids(Grid(16, 16)) == ladder(Grid(16, 16))


def test_the_released_rule():
    schedule, source = make(RandomSteps, rule="released"), random.Random(0)
    lists = [schedule.grids(Grid(16, 16), rng=source) for _ in range(2000)]
    for layout in lists:
        layout.check_for_model()
        assert layout.tokens <= 680
        assert layout.grids[:2] == (Grid(1, 1), Grid(2, 2))
    last = Counter(layout.last.h for layout in lists)
    assert 0.60 < last[16] / len(lists) < 0.75  # about two thirds end at 16
    assert Counter(len(layout) for layout in lists).most_common(2)[0][0] in (9, 10)
    published = sum(layout == Layout.of(*PUBLISHED[16][10]) for layout in lists)
    assert 0.02 < published / len(lists) < 0.08


def test_the_papers_rule_drops_five_percent():
    schedule, source = make(RandomSteps), random.Random(1)
    lengths = [len(schedule.grids(Grid(16, 16), rng=source)) for _ in range(2000)]
    assert 9.5 < sum(lengths) / len(lengths) < 9.7  # 10 - 8 * 5 %
    assert min(lengths) >= 6


def test_the_ladder_leads_to_the_usual_number_in_as_many_steps_as_its_option_says():
    assert make(Ladder, steps=6).grids(Grid(16, 16)) == Layout.of(1, 2, 4, 6, 10, 16)
    assert len(make(Ladder, steps=6).grids(Grid(32, 32))) == 8
    assert make(Ladder, steps=6).grids(Grid(16, 16), steps=9) == ladder(Grid(16, 16), 9)
    assert make(Ladder, steps=3).grids(Grid(1, 1)) == Layout.of(1)


@given(sizes)
def test_ten_steps_are_the_ladders_usual_ones(last):
    assert make(Ladder, steps=10).grids(last) == make(Ladder).grids(last) == ladder(last)


@given(sizes, st.integers(0, 10_000))
def test_random_lists_of_the_ladder_are_its_lists(last, seed):
    schedule = make(RandomSteps, rule="ladder", fewest=4, steps=6)
    layout = schedule.grids(last, rng=random.Random(seed))
    assert layout == ladder(last, len(layout))
    assert min(4, most_steps(last)) <= len(layout) <= 6


def test_random_lists_of_the_ladder_have_all_lengths():
    schedule = make(RandomSteps, rule="ladder", fewest=5, steps=7)
    lengths = Counter(len(schedule.grids(Grid(16, 16), rng=random.Random(n))) for n in range(300))
    assert set(lengths) == {5, 6, 7}
    assert min(lengths.values()) > 60
