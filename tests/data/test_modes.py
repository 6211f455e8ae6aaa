"""Pictures of every mode come out as the RGB a viewer would show."""

from __future__ import annotations

import struct
import zlib
from contextlib import suppress
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from pictures import GREEN, RED, noise, truncated
from PIL import Image, ImageCms

from flexvar import FlexvarError
from flexvar.images import open_image


def read(image: Image.Image, path: Path, **options: object) -> np.ndarray:
    image.save(path, **options)
    opened = open_image(path)
    assert opened.mode == "RGB"
    return np.asarray(opened)


def test_grey_becomes_three_equal_channels(tmp_path: Path) -> None:
    values = read(Image.new("L", (5, 3), 77), tmp_path / "a.png")
    assert values.shape == (3, 5, 3)
    assert (values == 77).all()


def test_one_bit(tmp_path: Path) -> None:
    values = read(Image.new("1", (4, 4), 1), tmp_path / "a.png")
    assert (values == 255).all()


def test_palette(tmp_path: Path) -> None:
    image = Image.new("RGB", (8, 8), RED).quantize(4)
    assert image.mode == "P"
    assert (read(image, tmp_path / "a.png") == RED).all()


def test_palette_with_a_transparent_entry_shows_white_there(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([*RED, *GREEN])
    image.putdata([0, 1])
    values = read(image, tmp_path / "a.png", transparency=1)
    assert values.tolist() == [[list(RED), [255, 255, 255]]]


def test_transparency_is_on_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 1), (*RED, 0))
    image.putpixel((1, 0), (*RED, 255))
    assert read(image, tmp_path / "a.png").tolist() == [[[255, 255, 255], list(RED)]]


def test_grey_with_alpha(tmp_path: Path) -> None:
    image = Image.new("LA", (2, 1), (100, 255))
    image.putpixel((1, 0), (100, 0))
    assert read(image, tmp_path / "a.png").tolist() == [[[100] * 3, [255] * 3]]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_grey_of_16_bits_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    image = Image.fromarray(np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16))
    values = read(image, tmp_path / f"a.{suffix}")
    assert values[0, :, 0].tolist() == [0, 1, 128, 255]


def test_colour_of_16_bits(tmp_path: Path) -> None:
    # Pillow does not write it.
    row = b"\0" + b"".join(struct.pack(">H", value * 257) for value in RED) * 2

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0)
    path = tmp_path / "a.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(row))
        + chunk(b"IEND", b"")
    )
    assert np.asarray(open_image(path)).tolist() == [[list(RED)] * 2]


def test_floating_point(tmp_path: Path) -> None:
    values = read(Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)), tmp_path / "a.tif")
    assert values[0, :, 0].tolist() == [0, 128, 255]


def test_integers_of_32_bits(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 2**30, 2**31 - 1]], np.int32))
    assert read(image, tmp_path / "a.tif")[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("suffix", ["jpg", "tif"])
def test_cmyk(tmp_path: Path, suffix: str) -> None:
    values = read(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), tmp_path / f"a.{suffix}")
    assert np.abs(values.astype(int) - (255, 0, 0)).max() <= 3


def test_cmyk_with_a_profile_that_is_none(tmp_path: Path) -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    values = read(image, tmp_path / "a.jpg", icc_profile=b"nonsense" * 40)
    assert np.abs(values.astype(int) - (255, 0, 0)).max() <= 3


def test_a_profile_of_another_kind_of_picture_is_no_obstacle(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    values = read(image, tmp_path / "a.jpg", icc_profile=profile)
    assert np.abs(values.astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_upright(tmp_path: Path, orientation: int) -> None:
    upright = Image.new("RGB", (32, 16), RED)
    upright.paste(GREEN, (0, 0, 16, 8))
    # The way back from each orientation, by the EXIF standard.
    undo = {
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }[orientation]
    stored = upright
    for operation in undo:
        stored = stored.transpose(operation)
    exif = Image.Exif()
    exif[0x0112] = orientation
    values = read(stored, tmp_path / "a.png", exif=exif)
    assert np.array_equal(values, np.asarray(upright))


def test_16_bits_lying_on_the_side(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    values = np.arange(6, dtype=np.uint16).reshape(2, 3) * 257
    result = read(Image.fromarray(values), tmp_path / "a.png", exif=exif)
    assert np.array_equal(result[:, :, 0], np.rot90(values // 257, -1))


def test_an_animation_is_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (6, 6), colour) for colour in (RED, GREEN)]
    values = read(frames[0], tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert (values == RED).all()


def test_a_large_jpeg_is_decoded_small_but_not_too_small() -> None:
    file = BytesIO()
    noise(640, 960).save(file, format="JPEG")
    assert open_image(file, enough=(70, 150)).size == (240, 160)
    assert open_image(file).size == (960, 640)


@pytest.mark.parametrize("make", ["empty", "text", "truncated"])
def test_a_damaged_file_is_named(tmp_path: Path, make: str) -> None:
    path = tmp_path / "bad.jpg"
    if make == "truncated":
        truncated(path)
    else:
        path.write_text("" if make == "empty" else "no picture")
    with pytest.raises(FlexvarError, match=r"bad\.jpg cannot be read as a picture"):
        open_image(path)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_any_damage_is_a_clear_error_or_a_picture(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for kind in ("PNG", "GIF", "TIFF", "JPEG", "WEBP", "BMP"):
        file = BytesIO()
        noise(20, 30).save(file, format=kind)
        for _ in range(40):
            data = bytearray(file.getvalue())
            for place in random.integers(0, len(data), 8):
                data[place] = int(random.integers(256))
            with suppress(FlexvarError):
                assert open_image(BytesIO(data)).mode == "RGB"
