"""Shards and folders that were right once give the same samples, in the same order, for ever."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from pictures import folder
from PIL import Image

from flexvar.data import DataConfig, open_data
from flexvar.data.config import Split

pytest.importorskip("webdataset")


def png(seed: int) -> bytes:
    # PGM: its bytes are no compressor's business, so that digests last.
    values = np.random.default_rng(seed).integers(0, 256, (12, 10), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(values).save(file, format="PPM")
    return file.getvalue()


def tar(path: Path, members: Iterable[tuple[str, bytes]], mode: str = "w") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode, format=tarfile.GNU_FORMAT) as file:  # type: ignore[call-overload]
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))


def numbered(root: Path) -> None:
    for number in range(3):
        members = []
        for i in range(11):
            key = f"{number:02d}/{i:04d}"
            members += [(f"{key}.cls", f"{(i * 5) % 12}".encode()), (f"{key}.pgm", png(i))]
        tar(root / f"{number:03d}.tar", members)
    (root / "classes.txt").write_text("\n".join(f"name {n}" for n in range(12)) + "\n")


def named(root: Path) -> None:
    for split in ("train", "val"):
        members = []
        for i, name in enumerate(("zebra", "ant", "Bee", "ünder", "ant", "zebra")):
            label = json.dumps({"label": name, "other": [1, 2]}).encode()
            members += [
                (f"./a b/{split}{i}.json", label),
                (f"./a b/{split}{i}.PGM", png(i)),
                (f"./a b/{split}{i}.txt", b"a caption"),
                (f"./a b/{split}{i}.mask.pgm", png(99)),
            ]
        tar(root / split / "shard.tar", members)


def several(root: Path) -> None:
    """Pictures with a dotted suffix, beside plain labels; numbers in JSON."""
    members = []
    for i in range(9):
        members += [
            (f"x/{i}.img.pgm", png(i)),
            (f"x/{i}.seg.pgm", png(50 + i)),
            (f"x/{i}.json", json.dumps({"cls": i % 4}).encode()),
        ]
    tar(root / "only.tar", members)


def plain(root: Path) -> None:
    tar(root / "a.tar", [(f"{i:03d}.pgm", png(i)) for i in range(20)])


def compressed(root: Path) -> None:
    members = [(f"{i}.{s}", d) for i in range(5) for s, d in (("pgm", png(i)), ("cls", b"cat\n"))]
    tar(root / "one.tar.gz", members, "w:gz")


def shard_digest(config: DataConfig, split: Split, root: Path) -> str:
    dataset = open_data(config, split)
    digest = hashlib.sha256(repr(dataset.class_names).encode())
    digest.update(f"{len(dataset)}".encode())
    for raws in (dataset.pictures.in_order(), dataset.pictures.epoch(3, 1)):  # type: ignore[union-attr]
        for raw in raws:
            name = raw.name.replace(str(root), "ROOT")
            digest.update(f"{name} {raw.label} ".encode() + hashlib.sha256(raw.data).digest())
    return digest.hexdigest()[:16]


SHARDS: dict[Callable[[Path], None], dict[str, str]] = {
    numbered: {"train": "a01f82b843069848", "val": "e69d374143a6b2c9"},
    named: {"train": "90db516f8e40aef5", "val": "f68d9a5d70c9d8e3"},
    several: {"train": "5564939ae2ad5dd9", "val": "d11b0c075584db88"},
    plain: {"train": "5c6fe814472fd976", "val": "4ede8d16323825d6"},
    compressed: {"train": "260e6c7e28926be4"},
}


@pytest.mark.parametrize("make", SHARDS, ids=lambda make: make.__name__)
def test_shards(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path)
    source = tmp_path / "one.tar.gz" if make is compressed else tmp_path
    fraction = 0 if make is compressed else 0.3
    config = DataConfig(source=str(source), size=8, val_fraction=fraction)
    found = {split: shard_digest(config, split, tmp_path) for split in SHARDS[make]}  # type: ignore[arg-type]
    assert found == SHARDS[make]


def split_folder(root: Path) -> None:
    folder(root / "train", {"b": 5, "a": 3, "10": 2})
    folder(root / "val", {"a": 2, "b": 1})


def mixed_folder(root: Path) -> None:
    folder(root, {"cat/inside": 3, "cat": 4, "Dog": 6, "emu.x": 2})


def number_folder(root: Path) -> None:
    folder(root, {"0": 4, "11": 4, "2": 5})


FOLDERS: dict[Callable[[Path], None], str] = {
    split_folder: "25f71fc9f4d7a6e4",
    mixed_folder: "e25898deec2ff6eb",
    number_folder: "1901c90312b67c6b",
}


@pytest.mark.parametrize("make", FOLDERS, ids=lambda make: make.__name__)
def test_folders(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path)
    config = DataConfig(source=str(tmp_path), size=8, val_fraction=0.3)
    digest = hashlib.sha256()
    for split in ("train", "val"):
        dataset = open_data(config, split)  # type: ignore[arg-type]
        digest.update(repr(dataset.class_names).encode())
        for index in range(len(dataset)):
            name = Path(dataset.pictures.name(index)).relative_to(tmp_path).as_posix()  # type: ignore[union-attr]
            digest.update(f"{name} {dataset.label(index)} {split}\n".encode())
    assert digest.hexdigest()[:16] == FOLDERS[make]
