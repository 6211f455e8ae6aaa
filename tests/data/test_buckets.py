"""Pictures of any shape at sizes of their own."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
from pictures import noise

from flexvar import FlexvarError
from flexvar.data import DataConfig, Dataset, batches, open_data, ordered_batches
from flexvar.data.buckets import bucket_sizes


@pytest.fixture
def mixed(tmp_path: Path) -> DataConfig:
    for name, shapes in (("a", [(40, 40), (40, 80), (80, 40)]), ("b", [(60, 60), (50, 100)])):
        (tmp_path / name).mkdir()
        for number in range(12):
            height, width = shapes[number % len(shapes)]
            noise(height, width, number).save(tmp_path / name / f"{number}.png")
    return DataConfig(source=str(tmp_path), size=32, val_fraction=0, buckets=8)


def keep(found: object, count: int) -> list[bytes]:
    return [b.images_B3HW.numpy().tobytes() for b in islice(found, count)]  # type: ignore[call-overload]


def test_every_batch_has_one_size_and_pictures_of_that_shape(mixed: DataConfig) -> None:
    dataset = open_data(mixed)
    found = {
        tuple(b.images_B3HW.shape[-2:]) for b in islice(batches(dataset, batch_size=4, seed=0), 20)
    }
    assert found == {(32, 32), (24, 48), (48, 24)}
    assert all(abs(h * w - 32 * 32) <= 200 for h, w in found)
    assert sum(int(line.split(": ")[1].split()[0]) for line in dataset.buckets.lines()) == 24  # type: ignore[union-attr]


def test_stops_ranks_and_workers_change_nothing(mixed: DataConfig) -> None:
    dataset = open_data(mixed)
    full = keep(batches(dataset, batch_size=4, seed=1), 12)
    assert keep(batches(dataset, batch_size=4, seed=1, start=7), 5) == full[7:]
    assert keep(batches(dataset, batch_size=4, seed=1, workers=1), 3) == full[:3]
    parts = [keep(batches(dataset, batch_size=2, seed=1, rank=r, world=2), 12) for r in (0, 1)]
    assert [a + b for a, b in zip(*parts, strict=True)] == full


def test_one_pass_holds_every_picture_once(mixed: DataConfig) -> None:
    dataset = open_data(mixed, augment=False)
    found = list(ordered_batches(dataset, batch_size=5))
    assert sum(len(b.labels_B) for b in found) == 24
    assert len({tuple(b.images_B3HW.shape[-2:]) for b in found}) == 3


def test_off_is_as_before(mixed: DataConfig) -> None:
    plain = mixed.model_copy(update={"buckets": None})
    dataset: Dataset = open_data(plain)
    assert dataset.buckets is None
    assert {
        tuple(b.images_B3HW.shape) for b in islice(batches(dataset, batch_size=4, seed=0), 6)
    } == {(4, 3, 32, 32)}


def test_sizes_are_of_about_one_area() -> None:
    sizes = bucket_sizes((64, 64), 16)
    assert sizes[0] == (64, 64)
    assert (48, 80) in sizes
    assert (32, 128) not in sizes
    with pytest.raises(FlexvarError, match="are no multiples of 24"):
        bucket_sizes((64, 64), 24)
