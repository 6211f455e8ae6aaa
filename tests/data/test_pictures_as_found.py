"""Pictures as cameras, telephones and programs write them: profiles, odd notes, odd numbers."""

from __future__ import annotations

import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pictures import noise
from PIL import Image, ImageCms, PngImagePlugin
from profiles import DISPLAY_P3, SRGB, profile

from flexvar import FlexvarError, images
from flexvar.images import open_image, to_rgb, to_tensor

P3 = profile(DISPLAY_P3, 2.2)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "tif"])
def test_a_wide_profile_is_converted(tmp_path: Path, suffix: str) -> None:
    # Values by the matrices: P3 (0.2, 0.8, 0.2) to the power of 2.2, in linear sRGB, and back.
    image = Image.new("RGB", (16, 16), (200, 60, 60))
    options = {"quality": 100} if suffix in ("jpg", "webp") else {}
    image.save(tmp_path / f"a.{suffix}", icc_profile=P3, **options)
    linear = (np.array((200, 60, 60)) / 255) ** 2.2
    xyz = np.array(DISPLAY_P3).T @ linear
    expected = np.linalg.inv(np.array(SRGB).T) @ xyz
    expected = np.where(
        expected <= 0.0031308, 12.92 * expected, 1.055 * expected.clip(0) ** (1 / 2.4) - 0.055
    )
    found = np.asarray(open_image(tmp_path / f"a.{suffix}"), dtype=float)[8, 8]
    assert np.abs(found - expected.clip(0, 1) * 255).max() <= 4
    assert found[0] > 210


def test_pictures_that_say_srgb_stay_as_they_are(tmp_path: Path) -> None:
    image = noise(20, 20)
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image.save(tmp_path / "a.png", icc_profile=own)
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.png")), np.asarray(image))


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA"])
def test_profiles_of_other_modes(tmp_path: Path, mode: str) -> None:
    image = noise(12, 12).convert(mode)
    if mode != "P":
        image.putalpha(Image.new("L", image.size, 128))
    image.save(tmp_path / "a.png", icc_profile=P3)
    found = open_image(tmp_path / "a.png")
    assert found.mode == "RGB"
    plain = to_rgb(image)
    moved = np.abs(np.asarray(found, dtype=int) - np.asarray(plain, dtype=int)).max()
    # An RGB profile is none for grey.
    assert moved == 0 if mode == "LA" else moved > 10


def test_opening_twice_turns_and_converts_once(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(10, 20).save(tmp_path / "a.jpg", exif=exif, icc_profile=P3, quality=95)
    once = open_image(tmp_path / "a.jpg")
    assert once.size == (10, 20)
    assert np.array_equal(np.asarray(to_rgb(once)), np.asarray(once))
    assert to_tensor(once).shape == (3, 20, 10)


def test_orientation_beside_odd_tags(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    tags = bytearray(exif.tobytes())
    # A second entry of a type that there is not, and one that lies about its place.
    for odd in (
        struct.pack("<HHII", 0x0213, 99, 1, 1),
        struct.pack("<HHII", 0x9286, 2, 2**31, 2**31),
        struct.pack("<HHII", 0x8769, 4, 1, 2**30),
    ):
        order = "<" if tags[6:8] == b"II" else ">"
        place = 6 + struct.unpack_from(f"{order}I", tags, 10)[0]
        fields = struct.unpack("<HHII", odd)
        changed = bytearray(tags[:place])
        changed += struct.pack(f"{order}H", 2) + tags[place + 2 : place + 14]
        changed += struct.pack(f"{order}HHII", *fields) + bytes(4)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            noise(10, 20).save(tmp_path / "a.jpg", exif=bytes(changed))
            assert open_image(tmp_path / "a.jpg").size == (10, 20)


@pytest.mark.parametrize("value", [0, 9, 70000, "6", b"\6\0"])
def test_an_orientation_that_is_none(value: object) -> None:
    image = noise(10, 20)
    image.getexif()[0x0112] = value
    assert to_rgb(image).size == (20, 10)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none_are_refused(tmp_path: Path, bad: float) -> None:
    values = np.full((4, 4), 0.5, dtype=np.float32)
    values[1, 1] = bad
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(
        FlexvarError, match=r"a\.tif cannot be read .*1 of its numbers are infinite"
    ):
        open_image(tmp_path / "a.tif")


@pytest.mark.parametrize("values", [[-1.0, 1.0], [0.0, 1.7], [0.0, 300.0], [0.0, 20.5]], ids=str)
def test_floats_of_an_unknown_range_are_refused(values: list[float]) -> None:
    with pytest.raises(FlexvarError, match=r"its numbers go from .*; expected \[0,1\], \[0,255\]"):
        to_rgb(Image.fromarray(np.array([values], dtype=np.float32)))


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (np.array([[0, 100, 255]], np.int32), [0, 100, 255]),
        (np.array([[0, 257, 65535]], np.int32), [0, 1, 255]),
        (np.array([[0.0, 3.0, 255.0]], np.float32), [0, 3, 255]),
        (np.array([[0.0, 2.0, 3.0]], np.float32), [0, 2, 3]),
        (np.array([[-0.0005, 0.5, 1.0005]], np.float32), [0, 128, 255]),
    ],
)
def test_numbers_of_a_known_range(values: np.ndarray, shown: list[int]) -> None:
    assert np.asarray(to_rgb(Image.fromarray(values)))[0, :, 0].tolist() == shown


def test_integers_of_an_unknown_range_are_refused() -> None:
    for values in ([-5, 9], [0, 70_000]):
        with pytest.raises(FlexvarError, match="its numbers go from"):
            to_rgb(Image.fromarray(np.array([values], dtype=np.int32)))


@pytest.mark.parametrize("kind", ["before", "after", "many"])
def test_long_texts_are_no_obstacle(tmp_path: Path, kind: str) -> None:
    image = noise(20, 20)
    text = zlib.compress(b"x" * (2 * 2**20))
    chunk = b"zTXt", b"key\0\0" + text
    file = BytesIO()
    image.save(file, format="PNG")
    data = file.getvalue()
    place = len(data) - 12 if kind == "after" else 33
    body = chunk[0] + chunk[1]
    one = struct.pack(">I", len(chunk[1])) + body + struct.pack(">I", zlib.crc32(body))
    data = data[:place] + one * (40 if kind == "many" else 1) + data[place:]
    (tmp_path / "a.png").write_bytes(data)
    for source in (tmp_path / "a.png", BytesIO(data)):
        assert np.array_equal(np.asarray(open_image(source)), np.asarray(image))


def test_a_long_profile_counts(tmp_path: Path) -> None:
    padded = P3 + bytes(2 * 2**20)
    padded = struct.pack(">I", len(padded)) + padded[4:]
    noise(20, 20).save(tmp_path / "long.png", icc_profile=padded)
    noise(20, 20).save(tmp_path / "short.png", icc_profile=P3)
    found = [np.asarray(open_image(tmp_path / f"{name}.png")) for name in ("long", "short")]
    assert np.array_equal(*found)


@pytest.mark.parametrize("settings", ["{", "[1]", "7", "[" * 100_000, ""], ids=len)
def test_settings_that_are_none(tmp_path: Path, settings: str) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_itxt(images.SETTINGS_KEY, settings)
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(FlexvarError, match=r"a\.png carries settings"):
        images.read_settings(tmp_path / "a.png")
