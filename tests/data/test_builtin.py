"""The sets that need no download."""

from __future__ import annotations

from pathlib import Path

import pytest
from pictures import folder

from flexvar import FlexvarError
from flexvar.data import DataConfig, builtin, open_data, ordered_batches

pytest.importorskip("skimage")
pytest.importorskip("sklearn")


def test_photos_have_a_class_each() -> None:
    train = open_data(DataConfig(source="photos", size=32))
    assert train.num_classes == 16
    assert {"astronaut", "cat", "temple"} <= set(train.class_names)
    assert len(train) == 1024
    assert sorted({train.label(i) for i in range(1024)}) == list(range(16))


@pytest.mark.parametrize("size", [(512, 300), (300, 512), (64, 64), (101, 77)])
@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
@pytest.mark.parametrize("shape", [(64, 64), (32, 96)])
def test_validation_regions_are_apart_from_training(
    size: tuple[int, int], fraction: float, shape: tuple[int, int]
) -> None:
    train, strip = builtin._strip(size, fraction)
    boxes = builtin._boxes(strip, shape)
    assert boxes
    taken = set()
    for region in (train, *boxes):
        left, top, right, bottom = region
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]
        pixels = {(x, y) for x in range(left, right) for y in range(top, bottom)}
        assert not taken & pixels
        taken |= pixels


def test_photos_for_validation_are_of_every_class() -> None:
    val = open_data(DataConfig(source="photos", size=(16, 24)), "val")
    assert {val.label(i) for i in range(len(val))} == set(range(16))
    shapes = {tuple(b.images_B3HW.shape[1:]) for b in ordered_batches(val, batch_size=16)}
    assert shapes == {(3, 16, 24)}


def test_digits() -> None:
    train = open_data(DataConfig(source="digits", size=24))
    val = open_data(train.config, "val")
    assert train.class_names == tuple("0123456789")
    assert (len(train), len(val)) == (1438, 359)
    assert not train.rule.flip
    image_3HW, label = train[0]
    assert image_3HW.shape == (3, 24, 24)
    assert label == 0
    # An ink ring around an empty middle: it is upright, white on black, and a zero.
    assert image_3HW[0, 10:13, 10:13].mean() < -0.5
    assert image_3HW[0].max() > 0.8


def test_digits_of_some_classes() -> None:
    train = open_data(DataConfig(source="digits", size=8, classes=("7", "1")))
    assert train.class_names == ("7", "1")
    assert {train.label(i) for i in range(len(train))} == {0, 1}


def test_absent_packages_are_an_error_with_the_install_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(builtin, "find_spec", lambda name: None)
    for source, package in (("photos", "scikit-image"), ("digits", "scikit-learn")):
        with pytest.raises(FlexvarError, match=rf"{package}.*pip install 'flexvar\[data\]'"):
            open_data(DataConfig(source=source))


def test_a_version_without_a_photo_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(builtin, "_folder", lambda name: tmp_path)
    with pytest.raises(FlexvarError, match="scikit-image comes without data/astronaut.png"):
        open_data(DataConfig(source="photos"))


def test_a_folder_of_the_same_name_is_pointed_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder(tmp_path / "digits", {"a": 1})
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UserWarning, match=r"the built-in set; the folder .* is \./digits"):
        assert open_data(DataConfig(source="digits")).num_classes == 10
    assert open_data(DataConfig(source="./digits")).num_classes == 1


def test_no_validation_without_a_share_for_it() -> None:
    for source in ("photos", "digits"):
        with pytest.raises(FlexvarError, match="no validation pictures: val_fraction is 0"):
            open_data(DataConfig(source=source, val_fraction=0), "val")
