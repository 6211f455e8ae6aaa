"""Data sets through the library ``datasets``: tables in files here, saved ones, and streams."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from pictures import noise

from flexvar import FlexvarError
from flexvar.data import DataConfig, Dataset, batches, open_data, ordered_batches
from flexvar.data.config import names_data_set
from flexvar.data.report import survey
from flexvar.data.stream import PictureStream


def png(seed: int, size: tuple[int, int] = (12, 10)) -> dict[str, Any]:
    from io import BytesIO

    file = BytesIO()
    noise(*size, seed).save(file, format="PNG")
    return {"bytes": file.getvalue(), "path": None}


def table(count: int, *, first: int = 0, **columns: Any) -> Any:
    """Rows with a picture, a class among three and a caption; of classes 0, 1, 0, 1, ..."""
    datasets = pytest.importorskip("datasets")
    rows = {
        "picture": [png(first + number) for number in range(count)],
        "species": [number % 2 for number in range(count)],
        "text": [f"a picture {first + number}" for number in range(count)],
        "size": list(range(count)),
        **columns,
    }
    kinds = {"picture": datasets.Image(), "species": datasets.ClassLabel(names=["b", "a", "c"])}
    made = datasets.Dataset.from_dict(rows)
    return made.cast(datasets.Features({**made.features, **kinds}))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if (datasets := sys.modules.get("datasets")) is None:
        datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    """A folder with a training and a validation file."""
    (tmp_path / "set").mkdir()
    table(6).to_parquet(str(tmp_path / "set" / "train.parquet"))
    table(2, first=6).to_parquet(str(tmp_path / "set" / "validation.parquet"))
    return tmp_path / "set"


def opened(source: str, split: Any = "train", **options: Any) -> Dataset:
    config = DataConfig(source=source, **{"size": 8, "flip": False, **options})
    return open_data(config, split, augment=False)


def labels(dataset: Dataset) -> list[str]:
    found = [label for one in ordered_batches(dataset, batch_size=4) for label in one.labels_B]
    return [dataset.class_names[int(label)] for label in found]


def names(dataset: Dataset) -> list[str]:
    found = ordered_batches(dataset, batch_size=4)
    return [captions[0] for one in found for captions in one.captions]


def test_which_sources_are_meant() -> None:
    assert names_data_set("hf:me/pictures")
    assert not names_data_set("hf://datasets/me/pictures/0.tar")


@pytest.mark.parametrize("streaming", [False, True])
def test_columns_and_splits_are_found(parquet: Path, streaming: bool) -> None:
    source = f"hf:{parquet}"
    options = {"streaming": streaming, "samples": 6 if streaming else None}
    train, val = opened(source, **options), opened(source, "val", **options)
    # The data set's own order; a class without a picture stays, so that numbers mean the same.
    assert train.class_names == ("b", "a", "c")
    assert sorted(labels(train)) == ["a"] * 3 + ["b"] * 3
    assert len(labels(val)) == 2
    assert train.streams is streaming
    assert isinstance(train.pictures, PictureStream) is streaming
    batch = next(batches(val, batch_size=2, seed=0, workers=0))
    assert {c for one in batch.captions for c in one} == {"a picture 6", "a picture 7"}
    found = survey(train.config)
    assert any("picture as image, species as label, text as caption" in n for n in found.notes)
    assert found.sizes[0] == (12, 10)


def test_a_stream_gives_the_pictures_of_the_table(parquet: Path) -> None:
    def pictures(**options: Any) -> dict[str, Any]:
        found = ordered_batches(opened(f"hf:{parquet}", **options), batch_size=3)
        return {
            one.captions[i][0]: one.images_B3HW[i]
            for one in found
            for i in range(len(one.labels_B))
        }

    here, streamed = pictures(), pictures(streaming=True, samples=6)
    assert here.keys() == streamed.keys()
    assert all((here[name] == streamed[name]).all() for name in here)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_saved_data_set_without_splits(tmp_path: Path, streaming: bool) -> None:
    table(20).save_to_disk(str(tmp_path / "saved"))
    options = {"streaming": streaming, "samples": 20 if streaming else None, "val_fraction": 0.3}
    source = f"hf:{tmp_path / 'saved'}"
    train, val = names(opened(source, **options)), names(opened(source, "val", **options))
    # How many rows of a stream are held out follows from their names, and is estimated before.
    assert not set(train) & set(val)
    assert (len(train), len(val)) == (14, 6) or streaming
    assert 3 <= len(val) <= 6
    assert 10 <= len(train) <= 14


def test_workers_get_rows(parquet: Path) -> None:
    for options in ({}, {"streaming": True, "samples": 6}):
        loaded = opened(f"hf:{parquet}", **options)
        plain = next(batches(loaded, batch_size=6, seed=1))
        other = next(batches(loaded, batch_size=6, seed=1, workers=1))
        assert (plain.images_B3HW == other.images_B3HW).all()


def test_columns_can_be_named(tmp_path: Path) -> None:
    other = [f"k{number % 3}" for number in range(6)]
    table(6, other=other).to_parquet(str(tmp_path / "x.parquet"))
    source = f"hf:{tmp_path / 'x.parquet'}"
    assert opened(source, label_column="other", val_fraction=0).class_names == ("k0", "k1", "k2")
    table(2, label=["x", "y"]).to_parquet(str(tmp_path / "two.parquet"))
    # A label by its type goes before one by its name; of two pictures one is a guess.
    assert opened(f"hf:{tmp_path / 'two.parquet'}", val_fraction=0).class_names == ("b", "a", "c")
    with pytest.raises(FlexvarError, match=r"has no column 'kind'. Columns: picture \(Image\)"):
        opened(source, label_column="kind")
    with pytest.raises(FlexvarError, match="holds no images in its column 'size'"):
        opened(source, image_column="size")
    with pytest.raises(FlexvarError, match="no class names.*classes"):
        opened(source, label_column="other", streaming=True, samples=6)
    with pytest.raises(FlexvarError, match="is read by the library datasets: hf:"):
        opened(source.removeprefix("hf:"))


def test_a_guess_among_several_is_warned_of(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    made = table(2, mask=[png(7), png(8)]).cast_column("mask", datasets.Image())
    made.rename_column("picture", "image").to_parquet(str(tmp_path / "x.parquet"))
    with pytest.warns(UserWarning, match="1 columns that could be the image too.*mask and not"):
        opened(f"hf:{tmp_path / 'x.parquet'}", val_fraction=0)


def test_rows_that_are_no_pictures(tmp_path: Path) -> None:
    rows = [png(0), {"bytes": b"none", "path": None}, {"bytes": None, "path": None}, png(3)]
    table(4, picture=rows).to_parquet(str(tmp_path / "x.parquet"))
    found = survey(DataConfig(source=f"hf:{tmp_path / 'x.parquet'}", size=8, val_fraction=0))
    assert len(found.unreadable) == 2
    by_row = sorted(found.unreadable)
    assert "train, row 1 cannot be read as a picture" in by_row[0]
    assert "train, row 2 holds no picture" in by_row[1]


def test_names_there_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FlexvarError, match="no folder './none', and it is no name"):
        opened("hf:./none")
    with pytest.raises(ValueError, match="subset is of data sets"):
        DataConfig(source="photos", subset="x")
    with pytest.raises(FlexvarError, match="only data sets of the hub have revisions"):
        opened(f"hf:{tmp_path}", revision="v1")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FlexvarError, match="cannot be read"):
        opened(f"hf:{tmp_path / 'empty'}")
    import datasets
    from huggingface_hub import constants

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FlexvarError, match="HF_HUB_OFFLINE forbids the network"):
        opened("hf:someone/pictures")


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(FlexvarError, match=r"pip install 'flexvar\[data-hf\]'"):
        opened("hf:someone/pictures")
