"""Captions beside pictures: in folders, in shards, through workers."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from flexvar.data import DataConfig, batches, open_data, ordered_batches
from flexvar.errors import FlexvarError


def picture(red: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (red, 0, 0)).save(file, "png")
    return file.getvalue()


def folder(root: Path) -> Path:
    for name in ("cat", "dog"):
        (root / name).mkdir(parents=True)
        for number in range(2):
            (root / name / f"{number}.png").write_bytes(picture(100 * number))
    (root / "cat" / "0.txt").write_text("a cat\n\nKatze, schläfrig\n", "utf-8")
    (root / "dog" / "0.txt").write_bytes(b"\xef\xbb\xbfa dog \xff\n")
    lines = [
        {"file": "cat/1.png", "caption": "another cat"},
        {"file": "cat/0.png", "captions": ["a cat", "tabby"]},
    ]
    (root / "captions.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    return root


def test_folders_have_texts_beside_pictures_and_lists(tmp_path: Path) -> None:
    data = open_data(DataConfig(source=str(folder(tmp_path)), size=16, val_fraction=0), "train")
    assert [data.captions(index) for index in range(4)] == [
        ("a cat", "Katze, schläfrig", "tabby"),
        ("another cat",),
        ("a dog \ufffd",),
        (),
    ]
    batch = next(ordered_batches(data, batch_size=4))
    assert batch.captions == tuple(data.captions(index) for index in range(4))


def test_other_captions_are_other_data(tmp_path: Path) -> None:
    config = DataConfig(source=str(folder(tmp_path)), size=16, val_fraction=0)
    before = open_data(config, "train").fingerprint()
    (tmp_path / "dog" / "1.txt").write_text("a new dog")
    assert open_data(config, "train").fingerprint() != before


@pytest.mark.parametrize("line", ["no json", '{"file": "a.png"}', '{"caption": "x"}', "[" * 9000])
def test_a_broken_line_is_named(tmp_path: Path, line: str) -> None:
    (folder(tmp_path) / "captions.jsonl").write_text(
        '{"file": "cat/0.png", "caption": "x"}\n' + line
    )
    with pytest.raises(FlexvarError, match=r"captions.jsonl, line 2: got .*; expected"):
        open_data(DataConfig(source=str(tmp_path), size=16), "train")


def test_captions_of_no_picture_are_warned_of(tmp_path: Path) -> None:
    (folder(tmp_path) / "captions.jsonl").write_text('{"file": "cat/9.png", "caption": "x"}\n')
    with pytest.warns(UserWarning, match=r"captions of 'cat/9.png', which is no picture there"):
        open_data(DataConfig(source=str(tmp_path), size=16, val_fraction=0), "train")


def shard(path: Path) -> Path:
    members = {
        "0.png": picture(0),
        "0.json": json.dumps({"label": "cat", "captions": ["a cat", "tabby"]}).encode(),
        "1.json": json.dumps({"label": "dog", "caption": "a dog"}).encode(),
        "1.txt": b"hound\n",
        "1.png": picture(100),
        "2.png": picture(200),
        "2.cls": b"dog",
    }
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_shards_have_texts_and_json(tmp_path: Path) -> None:
    config = DataConfig(source=str(shard(tmp_path / "a.tar")), size=16, val_fraction=0)
    batch = next(ordered_batches(open_data(config, "train"), batch_size=3))
    assert batch.labels_B.tolist() == [0, 1, 1]
    assert batch.captions == (("a cat", "tabby"), ("hound", "a dog"), ())


def test_captions_go_with_their_pictures_through_workers(tmp_path: Path) -> None:
    config = DataConfig(source=str(folder(tmp_path)), size=16, val_fraction=0)
    data = open_data(config, "train")
    streams = [batches(data, batch_size=3, seed=1, workers=workers) for workers in (0, 1)]
    for _ in range(3):
        one, two = (next(stream) for stream in streams)
        assert one.captions == two.captions
        for label, captions in zip(one.labels_B.tolist(), one.captions, strict=True):
            assert not captions or ("dog" in captions[0]) == (label == 1)


@pytest.mark.parametrize("kind", ["csv", "jsonl", "zip"])
def test_lists_and_zip_files_have_captions(tmp_path: Path, kind: str) -> None:
    root = folder(tmp_path / "data")
    source = tmp_path / f"a.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(source, "w") as file:
            for path in sorted(root.rglob("*")):
                if path.is_file():
                    file.write(path, f"set/{path.relative_to(root)}")
        expected = [("a cat", "Katze, schläfrig", "tabby"), ("another cat",), ("a dog \ufffd",), ()]
    else:
        for path in root.rglob("*.txt"):
            path.unlink()
        (root / "captions.jsonl").unlink()
        lines = [
            {"image": "data/cat/0.png", "label": "cat", "text": "a cat"},
            {"image": "data/cat/0.png", "label": "cat", "text": "tabby"},
            {"image": "data/dog/0.png", "label": "dog", "text": "a dog, \ud83d" + "asleep"},
            {"image": "data/dog/1.png", "label": "dog", "text": ""},
        ]
        if kind == "jsonl":
            lines[0]["text"] = ["a cat", "tabby"]  # type: ignore[assignment]
            text = "\n".join(map(json.dumps, lines))
        else:
            rows = [[one[key].replace("\ud83d", "?") for key in lines[0]] for one in lines]
            text = "\n".join(",".join(f'"{cell}"' for cell in row) for row in [[*lines[0]], *rows])
        source.write_text(text, "utf-8")
        expected = [("a cat", "tabby")] * 2 + [("a dog, ?asleep",), ()]
    config = DataConfig(source=str(source), size=16, val_fraction=0)
    data = open_data(config, "train")
    assert [data.captions(index) for index in range(4)] == expected
    batch = next(ordered_batches(data, batch_size=4))
    assert batch.captions == tuple(expected)
    streams = [batches(data, batch_size=4, seed=1, workers=workers) for workers in (0, 1)]
    one, two = (next(stream) for stream in streams)
    assert sorted(one.captions) == sorted(two.captions) == sorted(expected)


def test_the_column_of_captions_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(9))
    (tmp_path / "a.csv").write_text("path,words\na.png,a thing\n")
    config = DataConfig(source=str(tmp_path / "a.csv"), size=16, val_fraction=0)
    assert open_data(config, "train").captions(0) == ()
    named = config.model_copy(update={"caption_column": "words"})
    assert open_data(named, "train").captions(0) == ("a thing",)
    with pytest.raises(FlexvarError, match="caption_column: .* has no column 'text'"):
        open_data(config.model_copy(update={"caption_column": "text"}), "train")
