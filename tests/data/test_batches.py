"""Batches: the same whatever the workers, ranks and stops; damaged files and odd sizes."""

from __future__ import annotations

import multiprocessing
import random
import warnings
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from pictures import folder, noise, truncated

from flexvar import FlexvarError
from flexvar.config import parse
from flexvar.data import Batch, DataConfig, Dataset, Key, batches, open_data, ordered_batches


def config(root: Path, **options: object) -> DataConfig:
    return DataConfig(source=str(root), **{"size": (12, 16), "val_fraction": 0, **options})


def take(dataset: Dataset, count: int, **options: object) -> list[Batch]:
    return list(islice(batches(dataset, **{"batch_size": 3, "seed": 0, **options}), count))


def same(one: list[Batch], two: list[Batch]) -> bool:
    return len(one) == len(two) and all(
        torch.equal(a.images_B3HW, b.images_B3HW) and torch.equal(a.labels_B, b.labels_B)
        for a, b in zip(one, two, strict=True)
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return folder(tmp_path, {"a": 4, "b": 3})


@pytest.mark.parametrize("crop", ["random", "resized"])
def test_shapes_types_and_values(root: Path, crop: str) -> None:
    [batch] = take(open_data(config(root, crop=crop)), 1)
    assert batch.images_B3HW.shape == (3, 3, 12, 16)
    assert batch.images_B3HW.dtype == torch.float32
    assert batch.labels_B.dtype == torch.int64
    assert -1 <= batch.images_B3HW.min() < -0.5
    assert 0.5 < batch.images_B3HW.max() <= 1


@pytest.mark.parametrize("crop", ["random", "resized"])
def test_samples_differ_between_epochs_and_seeds_and_recur_with_their_key(
    root: Path, crop: str
) -> None:
    dataset = open_data(config(root, crop=crop))
    keys = [Key(0, epoch, seed) for epoch in range(6) for seed in range(6)]
    first = {key: dataset[key].image_3HW for key in keys}
    assert len({image.numpy().tobytes() for image in first.values()}) > 12
    fresh = open_data(config(root, crop=crop, cache_mb=0))
    assert all(torch.equal(fresh[key].image_3HW, first[key]) for key in reversed(keys))


def test_a_stopped_stream_goes_on_the_same(root: Path) -> None:
    dataset = open_data(config(root))
    assert same(take(dataset, 4, start=5), take(dataset, 9)[5:])


def test_ranks_joined_are_one_larger_batch(root: Path) -> None:
    dataset = open_data(config(root))
    ranks = [take(dataset, 5, rank=rank, world=2) for rank in range(2)]
    joined = [
        Batch(*(torch.cat(parts) for parts in list(zip(*pair, strict=True))[:2]))
        for pair in zip(*ranks, strict=True)
    ]
    assert same(joined, take(dataset, 5, batch_size=6))


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_workers_change_nothing(root: Path, context: str) -> None:
    truncated(root / "a" / "1.jpg")
    dataset = open_data(config(root))
    with pytest.warns(UserWarning, match=r"cannot be read \(1 so far\).*1\.jpg"):
        alone = take(dataset, 4)
    other = open_data(config(root))
    with pytest.warns(UserWarning, match="1 so far") as caught:
        shared = take(other, 4, workers=1 + (context == "fork"), context=context)
    assert same(shared, alone)
    assert sum("cannot be read" in str(one.message) for one in caught) == 1
    assert other.unreadable.keys() == dataset.unreadable.keys() == {str(root / "a" / "1.jpg")}


def test_global_random_states_are_left_alone(root: Path) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    take(open_data(config(root)), 2)
    take(open_data(config(root)), 2, workers=1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]


def test_a_damaged_file_is_replaced_warned_about_once_and_counted(root: Path) -> None:
    bad = truncated(root / "b" / "bad.jpg")
    dataset = open_data(config(root))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = take(dataset, 8)
    assert len(caught) == 1
    assert all(len(batch.labels_B) == 3 for batch in found)
    assert list(dataset.unreadable) == [str(bad)]
    with pytest.warns(UserWarning, match="1 so far"):
        assert same(take(open_data(config(root)), 8), found)


def test_validation_leaves_a_damaged_file_out(root: Path) -> None:
    folder(root / "train", {"a": 1})
    folder(root / "val", {"a": 4})
    bad = truncated(root / "val" / "a" / "2.jpg")
    dataset = open_data(config(root / "val"), augment=False)
    with pytest.warns(UserWarning, match="1 so far"):
        found = list(ordered_batches(dataset, batch_size=2))
    assert [len(batch.labels_B) for batch in found] == [2, 1, 1]
    with pytest.raises(FlexvarError, match=r"2\.jpg cannot be read as a picture"):
        dataset[names(dataset).index(str(bad))]


def names(dataset: Dataset) -> list[str]:
    return [dataset.pictures.name(i) for i in range(len(dataset))]


@pytest.mark.parametrize("workers", [0, 1])
def test_nothing_but_damaged_files_is_an_error(tmp_path: Path, workers: int) -> None:
    (tmp_path / "a").mkdir()
    for number in range(3):
        (tmp_path / "a" / f"{number}.jpg").write_bytes(b"no")
    with pytest.raises(FlexvarError, match=r"^No picture of .*Check it with: flexvar data") as told:
        take(open_data(config(tmp_path)), 1, workers=workers)
    # Not even while the error, and with it every frame it came through, is kept.
    assert told.tb is not None
    assert multiprocessing.active_children() == []


def test_small_pictures_are_enlarged_with_one_warning(tmp_path: Path) -> None:
    dataset = open_data(config(folder(tmp_path, {"a": 3}, size=(8, 30))))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert take(dataset, 2)[1].images_B3HW.shape == (3, 3, 12, 16)
    assert [str(w.message).split("png ")[1] for w in caught] == [
        "has 8x30 pixels, less than the 12x16 of a sample; it and others like it are enlarged and "
        "look soft."
    ]


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 1), (2000, 7), (12, 16), (13, 17)])
@pytest.mark.parametrize("crop", ["random", "resized"])
@pytest.mark.filterwarnings("ignore:.*pixels, less than")
def test_any_shape_of_picture_becomes_a_sample(
    tmp_path: Path, shape: tuple[int, int], crop: str
) -> None:
    (tmp_path / "a").mkdir()
    noise(*shape).save(tmp_path / "a" / "0.png")
    dataset = open_data(config(tmp_path, crop=crop))
    for epoch in range(20):
        assert dataset[Key(0, epoch)].image_3HW.shape == (3, 12, 16)
    assert open_data(config(tmp_path), augment=False)[0].image_3HW.shape == (3, 12, 16)


def test_the_papers_rule_covers_a_ninth_more_and_crops_everywhere(tmp_path: Path) -> None:
    # A ramp from left to right: its values tell where a crop was cut.
    ramp = np.tile(np.arange(72, dtype=np.uint8), (72, 1))
    (tmp_path / "a").mkdir()
    from PIL import Image

    Image.fromarray(ramp).save(tmp_path / "a" / "0.png")
    dataset = open_data(config(tmp_path, size=64, flip=False))
    lefts = {
        round(float(dataset[Key(0, epoch)].image_3HW[0, 0, 0] + 1) * 127.5) for epoch in range(200)
    }
    assert lefts == set(range(9))
    middle = open_data(config(tmp_path, size=64), augment=False)[0].image_3HW
    assert round(float(middle[0, 0, 0] + 1) * 127.5) == 4


def test_half_of_the_samples_are_mirrored(tmp_path: Path) -> None:
    folder(tmp_path, {"a": 1}, size=(12, 16))
    plain = open_data(config(tmp_path, resize=1, flip=False))[0].image_3HW
    dataset = open_data(config(tmp_path, resize=1))
    mirrored = 0
    for epoch in range(200):
        image = dataset[Key(0, epoch)].image_3HW
        if torch.equal(image, plain.flip(2)):
            mirrored += 1
        else:
            assert torch.equal(image, plain)
    assert 70 < mirrored < 130


def test_validation_is_in_order_shared_out_and_limited(root: Path) -> None:
    dataset = open_data(config(root), augment=False)
    full = list(ordered_batches(dataset, batch_size=3))
    assert torch.cat([b.labels_B for b in full]).tolist() == [0, 0, 0, 0, 1, 1, 1]
    ranks = [
        torch.cat([b.labels_B for b in ordered_batches(dataset, batch_size=2, rank=r, world=2)])
        for r in range(2)
    ]
    assert [rank.tolist() for rank in ranks] == [[0, 0, 1, 1], [0, 0, 1]]
    [limited] = ordered_batches(dataset, batch_size=9, limit=3)
    assert limited.labels_B.tolist() == [0, 0, 1]
    workers = list(ordered_batches(dataset, batch_size=3, workers=2))
    assert same(workers, full)


def test_an_end_after_some_epochs(root: Path) -> None:
    found = take(open_data(config(root)), 99, epochs=2)
    assert len(found) == 4


def test_impossible_numbers_are_refused_at_once(root: Path) -> None:
    dataset = open_data(config(root))
    with pytest.raises(FlexvarError, match="seed: got -1"):
        batches(dataset, batch_size=1, seed=-1)
    with pytest.raises(FlexvarError, match="batch_size: got 0"):
        batches(dataset, batch_size=0, seed=0)
    with pytest.raises(FlexvarError, match="limit: got 0"):
        ordered_batches(dataset, batch_size=1, limit=0)
    with pytest.raises(IndexError, match="sample 7 of 7"):
        dataset[7]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sourse": "x"}, "did you mean 'source'"),
        ({"size": 0}, "greater than or equal to 1"),
        ({"crop": "centre"}, "'random' or 'resized'"),
        ({"crop_range": [0, 1]}, "0 < least <= greatest <= 1"),
        ({"resize": 0.5}, "greater than or equal to 1"),
        ({"val_fraction": 1}, "less than 1"),
        ({"classes": ["a", "a"]}, "names a class twice"),
        ({"classes": []}, "classes is empty"),
    ],
)
def test_wrong_options_are_explained(options: dict[str, object], message: str) -> None:
    with pytest.raises(FlexvarError, match=message):
        parse(DataConfig, {"source": "photos", **options}, path="data")
