"""Image folders: layouts, splits, and what is wrong with them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pictures import folder, noise

from flexvar import FlexvarError
from flexvar.data import DataConfig, Dataset, open_data


def names(dataset: Dataset) -> list[str]:
    return [Path(dataset.pictures.name(i)).as_posix() for i in range(len(dataset.pictures))]


def test_a_folder_per_class(tmp_path: Path) -> None:
    root = folder(tmp_path, {"cat": 20, "bird": 10})
    train = open_data(DataConfig(source=str(root), size=16))
    val = open_data(train.config, "val")
    assert train.class_names == ("bird", "cat")
    assert train.num_classes == 2
    assert (len(train), len(val)) == (27, 3)
    assert not set(names(train)) & set(names(val))
    assert [val.label(i) for i in range(3)] == [0, 1, 1]
    image_3HW, label = train[26]
    assert image_3HW.shape == (3, 16, 16)
    assert label == 1


def test_splits_as_folders(tmp_path: Path) -> None:
    folder(tmp_path / "train", {"a": 4, "b": 3})
    folder(tmp_path / "val", {"b": 2})
    folder(tmp_path / "test", {"b": 2})
    config = DataConfig(source=str(tmp_path), size=16)
    assert len(open_data(config)) == 7
    val = open_data(config, "val")
    assert [val.label(i) for i in range(len(val))] == [1, 1]


def test_pictures_side_by_side_are_one_class(tmp_path: Path) -> None:
    for number in range(5):
        noise(20, 20).save(tmp_path / f"{number}.PNG")
    (tmp_path / "notes.txt").write_text("none")
    train = open_data(DataConfig(source=str(tmp_path), size=16))
    assert train.class_names == (tmp_path.name,)
    assert (len(train), len(open_data(train.config, "val"))) == (4, 1)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    folder(tmp_path, {"train": 2, "bus": 2})
    assert open_data(DataConfig(source=str(tmp_path))).class_names == ("bus", "train")


def test_numbers_as_names_sort_as_numbers(tmp_path: Path) -> None:
    folder(tmp_path, {"10": 1, "9": 1, "0": 1})
    assert open_data(DataConfig(source=str(tmp_path))).class_names == ("0", "9", "10")


def test_deeper_folders_belong_to_their_class_and_hidden_files_to_none(tmp_path: Path) -> None:
    folder(tmp_path / "a", {"x": 1, "y": 2})
    folder(tmp_path, {".git": 2, "__MACOSX": 2})
    noise(9, 9).save(tmp_path / "a" / "._0.png")
    train = open_data(DataConfig(source=str(tmp_path), val_fraction=0))
    assert train.class_names == ("a",)
    assert len(train) == 3


def test_classes_chooses_and_orders(tmp_path: Path) -> None:
    folder(tmp_path, {"a": 1, "b": 1, "c": 1})
    train = open_data(DataConfig(source=str(tmp_path), classes=("c", "a")))
    assert train.class_names == ("c", "a")
    assert [train.label(i) for i in range(2)] == [0, 1]


def test_what_is_held_out_depends_on_the_names_alone(tmp_path: Path) -> None:
    one = open_data(DataConfig(source=str(folder(tmp_path / "1", {"a": 30}))), "val")
    two = open_data(DataConfig(source=str(folder(tmp_path / "2", {"a": 30}))), "val")
    assert [Path(n).name for n in names(one)] == [Path(n).name for n in names(two)]


def test_the_fingerprint_changes_with_the_pictures_and_the_rule(tmp_path: Path) -> None:
    config = DataConfig(source=str(folder(tmp_path, {"a": 3})), size=16, val_fraction=0)
    before = open_data(config).fingerprint()
    assert open_data(config.model_copy(update={"cache_mb": 1})).fingerprint() == before
    assert open_data(config.model_copy(update={"size": 17})).fingerprint() != before
    noise(80, 80).save(tmp_path / "a" / "0.png")
    assert open_data(config).fingerprint() != before


def test_pictures_beside_the_classes_are_left_out_with_a_warning(tmp_path: Path) -> None:
    noise(9, 9).save(folder(tmp_path, {"a": 2}) / "preview.png")
    with pytest.warns(UserWarning, match=r"1 pictures lie beside the class folders.*preview\.png"):
        assert len(open_data(DataConfig(source=str(tmp_path), val_fraction=0))) == 2


def test_mistakes_are_explained(tmp_path: Path) -> None:
    def refused(message: str, source: Path | str, split: str = "train", **options: object) -> None:
        with pytest.raises(FlexvarError, match=message):
            open_data(DataConfig(source=str(source), **options), split)

    told = "'fotos': there is no such folder or file.*photos, digits.*Did you mean 'photos'"
    refused(told, "fotos")
    refused("there is no such folder", tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    refused("empty holds no picture. Expected .*/CLASS/", tmp_path / "empty")
    one = folder(tmp_path / "one", {"a": 1})
    refused("is a file; name the folder", one / "a" / "0.png")
    refused("no class has two pictures. Raise val_fraction", one, "val")
    refused("val_fraction is 0", one, "val", val_fraction=0)
    refused("no class 'b'. .*Classes: a", one, classes=("b",))
    (one / "hollow").mkdir()
    refused("class folder 'hollow' in .* holds no picture; put some there", one)
    split = folder(tmp_path / "split" / "train", {"a": 1}).parent
    folder(split / "val", {"b": 1})
    refused("validation folder has the class 'b', which the training folder has not", split)
