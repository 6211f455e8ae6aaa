"""The stream of samples: complete, shared out, and the same wherever it is taken up."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flexvar import FlexvarError
from flexvar.data.sampler import Key, Stream, keys, random_source

lengths = st.integers(1, 50)
sizes = st.integers(1, 9)


def take(count: int, length: int, size: int, seed: int = 0, **options: int) -> list[list[Key]]:
    return list(islice(keys(Stream(length, size, **options), seed), count))


@given(lengths, sizes, st.integers(0, 2**31))
def test_an_epoch_holds_every_sample_once(length: int, size: int, seed: int) -> None:
    stream = [key for batch in take(-(-3 * length // size), length, size, seed) for key in batch]
    for epoch in range(3):
        part = stream[epoch * length : (epoch + 1) * length]
        assert sorted(part) == [Key(number, epoch, seed) for number in range(length)]


@given(lengths, sizes, st.integers(0, 30))
def test_a_stream_goes_on_where_it_stopped(length: int, size: int, start: int) -> None:
    assert take(4, length, size, start=start) == take(start + 4, length, size)[start:]


@given(lengths, sizes, st.integers(1, 5))
def test_ranks_joined_are_one_process_with_a_larger_batch(
    length: int, size: int, world: int
) -> None:
    ranks = [take(5, length, size, rank=rank, world=world) for rank in range(world)]
    joined = [[key for part in batch for key in part] for batch in zip(*ranks, strict=True)]
    assert joined == take(5, length, size * world)
    seen = [key for batch in joined for key in batch]
    assert len(set(seen)) == len(seen)


@given(st.integers(1, 40), sizes, st.integers(1, 3), st.integers(1, 4))
def test_epochs_end_the_stream(length: int, size: int, world: int, epochs: int) -> None:
    if epochs * length < size * world:
        with pytest.raises(FlexvarError, match="do not fill one batch"):
            Stream(length, size, world=world, epochs=epochs)
        return
    stream = list(keys(Stream(length, size, world=world, epochs=epochs), 0))
    assert len(stream) == epochs * length // (size * world)
    assert all(len(batch) == size for batch in stream)


def test_seeds_and_epochs_differ_in_their_order() -> None:
    [first] = take(1, 100, 100)
    [other] = take(1, 100, 100, seed=1)
    second = take(2, 100, 100)[1]
    orders = {tuple(key.number for key in batch) for batch in (first, other, second)}
    assert len(orders) == 3


@settings(max_examples=30)
@given(st.lists(st.tuples(*[st.integers(0, 2**31)] * 4), min_size=2, max_size=9, unique=True))
def test_different_keys_give_different_numbers(found: list[tuple[int, ...]]) -> None:
    assert len({tuple(random_source(*key).random(4)) for key in found}) == len(found)


def test_the_numbers_never_change() -> None:
    # A resumed run on another machine or version of NumPy has to see the same samples.
    assert random_source(3, 1, 4, 0).random(2).tolist() == EXPECTED_NUMBERS
    assert [key.number for key in take(1, 10, 10, seed=3)[0]] == EXPECTED_ORDER


EXPECTED_NUMBERS = [0.7213857060665587, 0.9160542714580594]
EXPECTED_ORDER = [6, 2, 5, 1, 0, 8, 4, 9, 3, 7]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": 0}, "length: got 0; expected 1 or more"),
        ({"batch_size": 0}, "batch_size: got 0; expected 1 or more"),
        ({"start": -1}, "start: got -1; expected 0 or more"),
        ({"rank": 2, "world": 2}, "rank: got 2; with 2 processes expected 0 to 1"),
    ],
)
def test_impossible_numbers_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(FlexvarError, match=message):
        Stream(**{"length": 10, "batch_size": 2, **options})
