"""Folders as they are found: splits, litter, links, pipes, and names that are no text."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import pytest
from pictures import folder, noise

from flexvar import FlexvarError
from flexvar.cli.data import data as data_command
from flexvar.data import DataConfig, Dataset, open_data
from flexvar.data.report import survey
from flexvar.images import open_image


def opened(root: Path, **options: object) -> tuple[Dataset, list[str], list[str]]:
    """The training set of a folder, what it warns of, and the notes of ``flexvar data``."""
    config = DataConfig(source=str(root), **{"size": 8, "val_fraction": 0, **options})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = open_data(config)
    return dataset, [str(one.message) for one in caught], survey(config).notes


def test_splits_in_capitals(tmp_path: Path) -> None:
    for split, count in (("Train", 3), ("Val", 1), ("TEST", 2)):
        folder(tmp_path / split, {"a": count, "b": count})
    dataset, warned, notes = opened(tmp_path)
    assert dataset.class_names == ("a", "b")
    assert len(dataset) == 6
    assert len(open_data(dataset.config, "val")) == 2
    assert not warned
    assert notes == ["1 folders beside Train: left out, for example TEST"]


def test_splits_beside_another_folder(tmp_path: Path) -> None:
    for split in ("train", "val"):
        folder(tmp_path / split, {"a": 2, "b": 2})
    folder(tmp_path, {"previews": 3})
    dataset, warned, _ = opened(tmp_path)
    assert dataset.class_names == ("a", "b")
    assert ["1 folders beside train: left out, for example previews" in one for one in warned]
    assert len(warned) == 1


def test_folders_like_splits_that_are_taken_as_classes_are_said(tmp_path: Path) -> None:
    dataset, warned, _ = opened(folder(tmp_path / "1", {"val": 2, "test": 2}))
    assert dataset.class_names == ("test", "val")
    assert "2 folders called like a split, without a train folder" in warned[0]
    dataset, warned, _ = opened(folder(tmp_path / "2", {"train": 2, "test": 2, "bus": 2}))
    assert dataset.class_names == ("bus", "test", "train")
    assert "2 folders called like a split, beside others: taken as classes" in warned[0]


def test_names_that_begin_with_underscores(tmp_path: Path) -> None:
    root = folder(tmp_path, {"a": 2, "__b__": 2, "__MACOSX": 1})
    noise(9, 9).save(root / "a" / "__first.png")
    dataset, warned, notes = opened(root)
    assert dataset.class_names == ("a",)
    assert len(dataset) == 3
    assert "1 folders that begin with __: left out" in warned[0]
    assert any("1 files and folders that other programs leave behind" in one for one in notes)


def test_litter_of_drives_is_no_class(tmp_path: Path) -> None:
    root = folder(tmp_path, {"a": 2, "@eaDir": 2, "a/@eaDir/0.png": 1, "#recycle": 1, ".thumbs": 1})
    (root / "a" / "Thumbs.db").write_bytes(b"x")
    dataset, warned, notes = opened(root)
    assert dataset.class_names == ("a",)
    assert len(dataset) == 2
    assert not warned
    assert notes[0].startswith("4 files and folders that other programs leave behind: left out")


def test_linked_folders_inside_a_class_are_seen_once(tmp_path: Path) -> None:
    outside = folder(tmp_path / "outside", {"more": 3})
    root = folder(tmp_path / "data", {"a/own": 1, "b": 1})
    (root / "a" / "linked").symlink_to(outside / "more", target_is_directory=True)
    (root / "a" / "round").symlink_to(root / "a", target_is_directory=True)
    dataset, warned, notes = opened(root)
    assert [dataset.label(i) for i in range(len(dataset))] == [0, 0, 0, 0, 1]
    assert any("1 folders that were met before in their class" in one for one in warned)
    assert any("2 linked folders inside a class" in one for one in notes)


def test_pipes_are_left_out_and_never_opened(tmp_path: Path) -> None:
    root = folder(tmp_path, {"a": 2})
    os.mkfifo(root / "a" / "pipe.png")
    (root / "a" / "zero.jpg").symlink_to("/dev/zero")
    (root / "a" / "gone.jpg").symlink_to("nowhere.jpg")
    dataset, warned, _ = opened(root)
    assert "2 pipes and devices: left out" in warned[0]
    assert len(dataset) == 3
    assert len(survey(dataset.config).unreadable) == 1
    with pytest.raises(FlexvarError, match="is a pipe or a device"):
        open_image(root / "a" / "pipe.png")


def test_class_names_beside_numbered_folders(tmp_path: Path) -> None:
    root = folder(tmp_path, {"0": 1, "2": 1, "10": 1})
    (root / "classes.txt").write_text("\n".join(f"name {n}" for n in range(11)))
    dataset, _, _ = opened(root)
    assert dataset.class_names == ("name 0", "name 2", "name 10")
    assert opened(root, classes=("name 10",))[0].num_classes == 1


def test_class_names_by_folder(tmp_path: Path) -> None:
    root = folder(tmp_path, {"n02": 1, "n01": 2, "n03": 1})
    (root / "classes.txt").write_text("n01 tench, a fish\nn02\tcrane\nn03 crane\nn04 more\n")
    dataset, _, _ = opened(root)
    assert dataset.class_names == ("tench, a fish", "crane (n02)", "crane (n03)")
    assert [dataset.label(i) for i in range(4)] == [0, 0, 1, 2]


def test_class_names_that_do_not_fit_are_said(tmp_path: Path) -> None:
    root = folder(tmp_path, {"a": 1, "b": 1})
    (root / "classes.txt").write_text("x\ny\n")
    dataset, _, notes = opened(root)
    assert dataset.class_names == ("a", "b")
    assert "classes.txt that does not fit" in notes[0]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_no_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folder(tmp_path, {"a": 1})
    bad = os.fsencode(root) + b"/caf\xe9\x1b[31m"
    os.mkdir(bad)
    for name in (b"good.png", b"b\xffd.png"):
        with open(bad + b"/" + name, "wb") as file:
            noise(9, 9).save(file, format="PNG")
    with open(bad + b"/br\xfcken.png", "wb") as file:
        file.write(b"x")
    data_command(str(root), size="8")
    shown = capsys.readouterr().out
    assert r"caf\xe9\x1b[31m" in shown
    assert r"br\xfcken.png cannot be read" in shown
    assert "\x1b" not in shown
    shown.encode("utf-8")
