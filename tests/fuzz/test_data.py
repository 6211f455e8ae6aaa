"""Mutated shards, pictures, settings, tables and zip files: a clear error or a result, in bounds.

Every case is determined by its number. A mutation flips bytes, cuts, repeats or swaps parts.
"""

from __future__ import annotations

import io
import json
import struct
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from flexvar import FlexvarError, images
from flexvar.data import DataConfig, open_data, ordered_batches

# Seconds that one case may take, on a machine that is busy.
MOST_SECONDS = 20


def mutated(data: bytes, number: int) -> bytes:
    random = np.random.default_rng(number)
    changed = bytearray(data)
    for _ in range(int(random.integers(1, 6))):
        place, other = (int(random.integers(0, max(1, len(changed)))) for _ in range(2))
        length = int(random.integers(1, 64))
        match int(random.integers(6)):
            case 0 if changed:
                changed[place] ^= 1 << int(random.integers(8))
            case 1:
                changed[place : place + length] = random.bytes(length)
            case 2:
                del changed[place : place + length]
            case 3:
                changed[place:place] = changed[other : other + length]
            case 4:
                changed[place : place + length] = bytes(length)
            case _:
                changed[place : place + length] = b"9" * length
        if random.random() < 0.1:
            del changed[int(random.integers(0, len(changed) + 1)) :]
    return bytes(changed)


def mended(data: bytes) -> bytes:
    """A PNG file with the checksums of its chunks set right, so that damage gets further in."""
    result, place = bytearray(data), 8
    while place + 12 <= len(result):
        (length,) = struct.unpack_from(">I", result, place)
        end = place + 8 + length
        if end + 4 > len(result):
            break
        struct.pack_into(">I", result, end, zlib.crc32(result[place + 4 : end]))
        place = end + 4
    return bytes(result)


def noted(number: int) -> bytes:
    """A PNG file whose pixels are whole and whose settings are not."""
    text = json.dumps({"seed": 1, "label": "cat", "steps": [1, 2], "nested": {"a": None}}).encode()
    return picture("PNG", settings=mutated(text, number).decode("latin-1"))


def picture(kind: str, number: int = 0, settings: str = '{"seed": 1}') -> bytes:
    values = np.random.default_rng(number).integers(0, 256, (14, 12, 3), dtype=np.uint8)
    file = io.BytesIO()
    image, options = Image.fromarray(values), {}
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt(images.SETTINGS_KEY, settings)
        info.add_text("note", "x" * 300, zip=True)
        options = {"pnginfo": info, "icc_profile": bytes(200)}
    if kind == "JPEG":
        exif = Image.Exif()
        exif[0x0112] = 6
        options = {"exif": exif}
    image.save(file, format=kind, **options)
    return file.getvalue()


def shard() -> bytes:
    import tarfile

    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for i in range(4):
            label = json.dumps({"label": i}).encode()
            for name, data in ((f"{i}.5.ppm", picture("PPM", i)), (f"{i}.5.json", label)):
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for i in range(4):
            packed.writestr(f"{'ab'[i % 2]}/{i}.ppm", picture("PPM", i))
    return file.getvalue()


def read_source(path: Path) -> None:
    dataset = open_data(DataConfig(source=str(path), size=8, val_fraction=0), augment=False)
    for batch in ordered_batches(dataset, batch_size=4):
        assert batch.images_B3HW.shape[1:] == (3, 8, 8)
        assert bool((batch.labels_B < dataset.num_classes).all())


def read_picture(path: Path) -> None:
    assert images.open_image(path).mode == "RGB"


def read_settings(path: Path) -> None:
    assert isinstance(images.read_settings(path), dict)


CASES: dict[str, tuple[str, Callable[[], bytes], Callable[[Path], None], int]] = {
    "shards": ("a.tar", shard, read_source, 200),
    "png": ("a.png", lambda: picture("PNG"), read_picture, 200),
    "jpeg": ("a.jpg", lambda: picture("JPEG"), read_picture, 100),
    "tiff": ("a.tif", lambda: picture("TIFF"), read_picture, 100),
    "webp": ("a.webp", lambda: picture("WEBP"), read_picture, 50),
    "settings": ("a.png", lambda: picture("PNG"), read_settings, 200),
    "csv": ("a.csv", lambda: b"image,label\n" + b"x.png,1\ny.png,2\n" * 8, read_source, 100),
    "jsonl": ("a.jsonl", lambda: b'{"image": "x.png", "label": 1}\n' * 8, read_source, 100),
    "zip": ("a.zip", archive, read_source, 150),
}


def tried(case: str, folder: Path, count: int | None = None) -> tuple[int, int, list[str]]:
    """How many were read, how many were answered with a message, and what else happened."""
    name, make, read, usual = CASES[case]
    data, good, answered, failed = make(), 0, 0, []
    for number in range(count or usual):
        path = folder / name
        changed = mutated(data, number)
        if name.endswith("png") and number % 4:
            changed = mended(changed)
        if case == "settings" and number % 2:
            changed = noted(number)
        path.write_bytes(changed)
        start = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                read(path)
                good += 1
            except FlexvarError as error:
                answered += 1
                if len(str(error)) > 3000:
                    failed.append(f"{number}: a message of {len(str(error))} letters")
            except Exception as error:
                failed.append(f"{number}: {type(error).__name__}: {error}")
        if time.perf_counter() - start > MOST_SECONDS:
            failed.append(f"{number}: too slow")
    return good, answered, failed


@pytest.mark.parametrize("case", CASES)
def test_nothing_but_messages_escapes(case: str, tmp_path: Path) -> None:
    if case == "shards":
        pytest.importorskip("webdataset")
    good, answered, failed = tried(case, tmp_path)
    print(
        f"{case}: {good + answered + len(failed)} tried, {answered} answered, {len(failed)} failed"
    )
    assert not failed, "\n".join(failed[:10])
    assert good
    assert answered
