"""WebDataset shards: read through, shuffled, shared out and taken up again."""

from __future__ import annotations

import io
import json
import shutil
import sys
import tarfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from threading import Thread

import pytest
import torch
from pictures import noise

from flexvar import FlexvarError
from flexvar.data import DataConfig, batches, open_data, ordered_batches

pytest.importorskip("webdataset")


def shard(path: Path, samples: dict[str, dict[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, parts in samples.items():
            for suffix, data in parts.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def picture(seed: int) -> bytes:
    file = io.BytesIO()
    noise(20, 20, seed).save(file, format="PNG")
    return file.getvalue()


def shards(root: Path, count: int = 3, each: int = 7) -> Path:
    for number in range(count):
        samples = {
            f"{number}-{i}": {"png": picture(100 * number + i), "cls": str(i % 3).encode()}
            for i in range(each)
        }
        shard(root / f"{number:03d}.tar", samples)
    return root


def config(source: Path | str, **options: object) -> DataConfig:
    return DataConfig(source=str(source), **{"size": 16, "val_fraction": 0, **options})


def images(found: object) -> list[bytes]:
    return [image.numpy().tobytes() for batch in found for image in batch.images_B3HW]


def test_counts_classes_and_batches(tmp_path: Path) -> None:
    dataset = open_data(config(shards(tmp_path)))
    assert dataset.class_names == ("0", "1", "2")
    assert len(dataset) == 21
    batch = next(batches(dataset, batch_size=4, seed=0))
    assert batch.images_B3HW.shape == (4, 3, 16, 16)
    assert dataset[8].label == 1


def test_an_epoch_holds_every_picture_once_in_another_order(tmp_path: Path) -> None:
    dataset = open_data(config(shards(tmp_path), flip=False, resize=1))
    ordered = images(ordered_batches(open_data(dataset.config, augment=False), batch_size=5))
    first = images(islice(batches(dataset, batch_size=7, seed=0), 3))
    second = images(islice(batches(dataset, batch_size=7, seed=0, start=3), 3))
    assert sorted(first) == sorted(second) == sorted(ordered)
    assert len({tuple(ordered), tuple(first), tuple(second)}) == 3


def test_stops_ranks_and_workers_change_nothing(tmp_path: Path) -> None:
    dataset = open_data(config(shards(tmp_path)))
    full = images(islice(batches(dataset, batch_size=4, seed=1), 9))
    assert images(islice(batches(dataset, batch_size=4, seed=1, start=6), 3)) == full[24:]
    assert images(islice(batches(dataset, batch_size=4, seed=1, workers=2), 9)) == full
    halves = [
        images(islice(batches(dataset, batch_size=2, seed=1, rank=rank, world=2), 9))
        for rank in range(2)
    ]
    joined = [part for at in range(0, 18, 2) for half in halves for part in half[at : at + 2]]
    assert joined == full


def test_samples_are_held_out_by_name(tmp_path: Path) -> None:
    options = {"val_fraction": 0.3, "flip": False, "resize": 1}
    train = open_data(config(shards(tmp_path), **options), augment=False)
    val = open_data(train.config, "val")
    assert len(train) + len(val) == 21
    assert 0 < len(val) < 15
    parts = [images(ordered_batches(part, batch_size=8)) for part in (train, val)]
    assert [len(part) for part in parts] == [len(train), len(val)]
    assert not set(parts[0]) & set(parts[1])


@pytest.mark.parametrize("names", ["train/0.tar val/0.tar", "set-train-0.tar set-val-0.tar"])
def test_validation_shards(tmp_path: Path, names: str) -> None:
    for number, name in enumerate(names.split()):
        shard(tmp_path / name, {f"k{i}": {"png": picture(i)} for i in range(4 - number)})
    train = open_data(config(tmp_path))
    val = open_data(train.config, "val")
    assert (len(train), len(val)) == (4, 3)
    assert train.class_names == ("pictures",)


def test_names_as_classes_and_json(tmp_path: Path) -> None:
    label = json.dumps({"label": "dog"}).encode()
    file = shard(
        tmp_path / "a.tar",
        {
            "x/1": {"cls": b"cat\n", "png": picture(1)},
            "x/2": {"seg.png": picture(2), "json": label},
            "x/3": {"txt": b"no picture"},
        },
    )
    dataset = open_data(config(file), augment=False)
    assert dataset.class_names == ("cat", "dog")
    assert [b.labels_B.tolist() for b in ordered_batches(dataset, batch_size=2)] == [[0, 1]]
    chosen = open_data(config(file, classes=("dog",)))
    assert len(chosen) == 1
    assert next(batches(chosen, batch_size=2, seed=0)).labels_B.tolist() == [0, 0]


def test_names_of_numbered_classes(tmp_path: Path) -> None:
    (shards(tmp_path) / "classes.txt").write_text("ant\nbee\ncat\n")
    assert open_data(config(tmp_path)).class_names == ("ant", "bee", "cat")
    braces = open_data(config(tmp_path / "{000..001}.tar", classes=("cat", "bee")))
    assert braces.class_names == ("cat", "bee")
    assert len(braces) == 8
    (tmp_path / "classes.txt").write_text("ant\n")
    with pytest.raises(FlexvarError, match="names 1 classes, but class number 2 occurs"):
        open_data(config(tmp_path))


@pytest.mark.parametrize("batch_size", [1, 4])
def test_a_damaged_picture_is_replaced(tmp_path: Path, batch_size: int) -> None:
    samples = {f"k{i}": {"png": picture(i)} for i in range(6)}
    shard(tmp_path / "a.tar", samples | {"k6": {"png": b"broken"}})
    dataset = open_data(config(tmp_path))
    with pytest.warns(UserWarning, match=r"k6 cannot be read") as caught:
        found = list(islice(batches(dataset, batch_size=batch_size, seed=0), 14))
    assert all(len(batch.labels_B) == batch_size for batch in found)
    assert len(caught) == 1


def test_a_damaged_shard_gives_what_stands_before_the_damage(tmp_path: Path) -> None:
    shards(tmp_path, count=2)
    bad = tmp_path / "001.tar"
    bad.write_bytes(bad.read_bytes()[:3000])
    dataset = open_data(config(tmp_path), augment=False)
    with pytest.warns(UserWarning, match=r"001\.tar cannot be read to its end"):
        found = images(ordered_batches(dataset, batch_size=4))
    assert len(found) >= 7
    training = open_data(config(tmp_path))
    with pytest.warns(UserWarning, match=r"001\.tar cannot be read to its end"):
        assert len(images(islice(batches(training, batch_size=4, seed=0), 9))) == 36


def test_addresses_need_classes_and_a_count() -> None:
    with pytest.raises(FlexvarError, match="cannot be counted beforehand; give its class names"):
        open_data(config("https://host/{000..009}.tar"))
    dataset = open_data(config("https://host/{000..009}.tar", classes=("a", "b"), samples=100))
    assert (len(dataset), dataset.num_classes) == (100, 2)


@pytest.mark.skipif(shutil.which("curl") is None, reason="webdataset downloads with curl")
def test_addresses_give_the_same_batches_as_files(tmp_path: Path) -> None:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    local = open_data(config(shards(tmp_path)))
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        options = {"classes": ("a", "b", "c"), "samples": 21}
        remote = open_data(config(url + "/{000..002}.tar", **options))
        absent = open_data(config(url + "/absent.tar", **options))
        found = [images(islice(batches(d, batch_size=4, seed=0), 9)) for d in (local, remote)]
        with pytest.raises(FlexvarError, match=r"gave no picture; .*absent\.tar cannot be read"):
            next(batches(absent, batch_size=4, seed=0))
        server.shutdown()
    assert found[0] == found[1]
    assert not remote.unreadable


@pytest.mark.parametrize("source", ["pipe:cat a.tar", "ftp://host/a.tar", "https://h/'$(x)'.tar"])
def test_a_recipe_runs_no_command(source: str) -> None:
    with pytest.raises(FlexvarError, match="shards are read from files and from addresses"):
        open_data(config(source, classes=("a",), samples=1))


def test_mistakes_are_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FlexvarError, match=r"There is no shard .*absent\.tar"):
        open_data(config(tmp_path / "absent.tar"))
    shard(tmp_path / "none.tar", {"k": {"txt": b""}})
    with pytest.raises(FlexvarError, match="hold no picture"):
        open_data(config(tmp_path))
    monkeypatch.setitem(sys.modules, "webdataset.tariterators", None)
    with pytest.raises(FlexvarError, match=r"webdataset.*pip install 'flexvar\[data\]'"):
        open_data(config(tmp_path))


def test_making_batches_draws_nothing_from_global_sources(tmp_path: Path) -> None:
    dataset = open_data(config(shards(tmp_path)))
    before = torch.get_rng_state()
    next(batches(dataset, batch_size=2, seed=0))
    assert torch.equal(torch.get_rng_state(), before)
