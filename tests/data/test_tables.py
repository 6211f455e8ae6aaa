"""Lists of pictures and zip files as sources."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from pictures import folder, noise

from flexvar import FlexvarError
from flexvar.cli import main
from flexvar.data import DataConfig, Dataset, batches, open_data
from flexvar.data.report import survey


def opened(path: Path, **options: object) -> Dataset:
    return open_data(DataConfig(source=str(path), **{"size": 8, "val_fraction": 0, **options}))


def labels(dataset: Dataset) -> list[str]:
    return [dataset.class_names[dataset.label(i)] for i in range(len(dataset))]


def pictures(root: Path, count: int) -> list[str]:
    (root / "pics").mkdir(parents=True)
    for number in range(count):
        noise(12, 12, number).save(root / "pics" / f"{number}.png")
    return [f"pics/{number}.png" for number in range(count)]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_paths_with_labels(tmp_path: Path, suffix: str) -> None:
    paths = pictures(tmp_path, 4)
    table = tmp_path / f"list.{suffix}"
    if suffix == "jsonl":
        lines = [json.dumps({"file_name": p, "label": i % 2 * 10}) for i, p in enumerate(paths)]
    else:
        comma = "," if suffix == "csv" else "\t"
        lines = [comma.join(("Path", "class"))]
        lines += [comma.join((p, str(i % 2 * 10))) for i, p in enumerate(paths)]
    table.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    dataset = opened(table)
    assert dataset.class_names == ("0", "10")
    assert labels(dataset) == ["0", "0", "10", "10"]
    assert dataset[0].image_3HW.shape == (3, 8, 8)
    assert "image, " in survey(dataset.config).notes[0]
    assert next(batches(dataset, batch_size=4, seed=0, workers=1)).labels_B.shape == (4,)


def test_splits_of_a_table(tmp_path: Path) -> None:
    paths = pictures(tmp_path, 5)
    splits = ("train", "train", "Val", "validation", "test")
    lines = [json.dumps({"image": p, "split": s}) for p, s in zip(paths, splits, strict=True)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    dataset = opened(tmp_path / "a.jsonl")
    assert (len(dataset), len(open_data(dataset.config, "val"))) == (2, 2)
    assert dataset.class_names == ("pictures",)
    assert any("1 pictures of other splits" in line for line in survey(dataset.config).notes)


def test_a_line_without_a_label_makes_no_class(tmp_path: Path) -> None:
    paths = pictures(tmp_path, 3)
    (tmp_path / "a.csv").write_text(
        f"image,label\n{paths[0]},cat\n{paths[1]},\n{paths[2]},dog\n,x\n"
    )
    with pytest.warns(UserWarning, match="1 pictures without a label"):
        dataset = opened(tmp_path / "a.csv")
    assert labels(dataset) == ["cat", "dog"]


def test_columns_can_be_named(tmp_path: Path) -> None:
    paths = pictures(tmp_path, 2)
    (tmp_path / "a.csv").write_text(f"where,what\n{paths[0]},cat\n{paths[1]},dog\n")
    with pytest.raises(FlexvarError, match=r"name it: image_column=NAME. Columns: where, what"):
        opened(tmp_path / "a.csv")
    dataset = opened(tmp_path / "a.csv", image_column="where", label_column="what")
    assert labels(dataset) == ["cat", "dog"]
    with pytest.raises(FlexvarError, match="has no column 'kind'"):
        opened(tmp_path / "a.csv", image_column="where", label_column="kind")


def test_the_command_takes_options_of_the_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = pictures(tmp_path, 2)
    (tmp_path / "a.csv").write_text(f"image,kind\n{paths[0]},cat\n{paths[1]},dog\n")
    with pytest.raises(SystemExit) as done:
        main(["data", str(tmp_path / "a.csv"), "label_column=kind", "data.val_fraction=0"])
    assert done.value.code == 0
    shown = capsys.readouterr().out
    assert "cat" in shown
    assert "kind as label" in shown


@pytest.mark.parametrize("data", [b"", b"\0\xff\xfe" * 99, b"image\n", b"{" * 2**21])
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "zip"])
def test_files_that_are_no_lists(tmp_path: Path, data: bytes, suffix: str) -> None:
    (tmp_path / f"a.{suffix}").write_bytes(data)
    with pytest.raises(FlexvarError):
        opened(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize("around", ["", "birds/", "x/y/"])
def test_a_zip_of_class_folders(tmp_path: Path, around: str) -> None:
    root = folder(tmp_path / "data", {"cat": 3, "dog": 2})
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        for path in sorted(root.rglob("*.png")):
            file.write(path, f"{around}{path.relative_to(root)}")
        file.writestr(f"__MACOSX/{around}cat/._0.png", b"mac")
        file.writestr(f"{around}notes.txt", b"none")
    dataset = opened(tmp_path / "a.zip")
    assert labels(dataset) == ["cat"] * 3 + ["dog"] * 2
    own = open_data(DataConfig(source=str(root), size=8, val_fraction=0), augment=False)
    zipped = open_data(dataset.config, augment=False)
    assert all((own[i].image_3HW == zipped[i].image_3HW).all() for i in range(5))
    assert next(batches(dataset, batch_size=5, seed=0, workers=2)).images_B3HW.shape[0] == 5


def test_a_zip_of_splits(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        noise(9, 9).save(tmp_path / "one.png")
        for split, count in (("Train", 3), ("val", 2)):
            for number in range(count):
                for name in "ab":
                    file.write(tmp_path / "one.png", f"set/{split}/{name}/{number}.png")
    dataset = opened(tmp_path / "a.zip")
    assert dataset.class_names == ("a", "b")
    assert (len(dataset), len(open_data(dataset.config, "val"))) == (6, 4)


def test_a_damaged_member_is_named(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("a/1.png", b"x" * 3000)
        file.writestr("a/2.png", b"y" * 3000)
    data = bytearray((tmp_path / "a.zip").read_bytes())
    data[200] ^= 255
    (tmp_path / "a.zip").write_bytes(data)
    found = survey(DataConfig(source=str(tmp_path / "a.zip"), size=8, val_fraction=0)).unreadable
    assert len(found) == 2
    assert "a/1.png cannot be read" in found[0]
