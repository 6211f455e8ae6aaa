"""Picture files and Pillow images -> RGB pictures and tensors."""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from flexvar.errors import FlexvarError
from flexvar.images.png_chunks import without_text
from flexvar.images.profile import to_srgb
from flexvar.text import printable

SETTINGS_KEY = "flexvar"
ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SAYS_ORIENTATION = (
    "exif",
    "xmp",
    "XML:com.adobe.xmp",
    "Raw profile type exif",
    "Raw profile type APP1",
)
# By which numbers in [0,1] may miss it after resizing.
SLACK = 1e-3


def open_image(
    source: str | Path | BinaryIO,
    *,
    enough: tuple[int, int] | None = None,
    name: str = "",
    stored: bool = False,
) -> Image.Image:
    """The picture in a file, upright and in RGB, in sRGB; of several the first.

    enough: (height, width) beyond which pixels are not needed; a JPEG may then be decoded at a
    half, a quarter or an eighth of its size, but not below it. name: what messages call an open
    file. stored: upright, but in the mode and colors of the file.
    Raises `FlexvarError` if there is none, or it cannot be read.
    """
    name = printable(name or source)
    check_regular(source, name)
    try:
        with _opened(source) as image:
            if enough is not None:
                # Both ways round, as the EXIF may say that it lies on its side.
                side = max(enough)
                image.draft(None, (side, side))
            return upright(image) if stored else to_rgb(image)
    except FileNotFoundError:
        raise FlexvarError(f"There is no picture {name}.") from None
    except UnidentifiedImageError:
        raise FlexvarError(f"{name} cannot be read as a picture: not a known format") from None
    except Exception as error:
        # In damaged files Pillow's decoders stumble over anything: struct.error, IndexError, ...
        why = printable(error, most=300)
        raise FlexvarError(f"{name} cannot be read as a picture: {why}") from None


def _opened(source: str | Path | BinaryIO) -> Image.Image:
    """The picture in a file, with its pixels read if it is a PNG that Pillow would refuse."""
    try:
        image = Image.open(source)
        if image.format == "PNG":
            image.load()
        return image
    except ValueError as error:
        # Long texts, and profiles over a megabyte; the pixels are fine.
        if "too large" not in str(error):
            raise
    if isinstance(source, str | Path):
        data = Path(source).read_bytes()
    else:
        source.seek(0)
        data = source.read()
    file, profile = without_text(data)
    image = Image.open(file)
    image.load()
    if profile is not None:
        image.info["icc_profile"] = profile
    return image


def check_regular(source: object, name: str) -> None:
    """Raise `FlexvarError` for a path to a pipe or a device, which may never end, or begin."""
    if isinstance(source, str | Path):
        try:
            mode = os.stat(source).st_mode
        except (OSError, ValueError):
            return  # opening it says what is wrong
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise FlexvarError(f"{name} is a pipe or a device, not a file.")


def upright(image: Image.Image) -> Image.Image:
    """A picture turned as its EXIF says; whatever else stands there is passed over."""
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:
        # Odd tags beside are no fault of the pixels.
        orientation = 1
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    result = image.copy() if turn is None else image.transpose(turn)
    for key in _SAYS_ORIENTATION:
        # Or it would be turned again.
        result.info.pop(key, None)
    return result


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode in RGB: upright, in sRGB by its profile, transparency on white.

    Grey of 16 bits is scaled, not clipped; floating point is taken as [0,1] if nothing is above
    1, else as [0,255]. Raises `FlexvarError` for numbers that are neither.
    """
    image = upright(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    if image.mode == "CMYK":
        # Print inks are far from pure colors; without a profile, plainly.
        image = to_srgb(image).convert("RGB")
    elif image.info.get("icc_profile"):
        image = _in_srgb(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    image = image.convert("RGB")
    image.info.pop("icc_profile", None)
    return image


def _in_srgb(image: Image.Image) -> Image.Image:
    if image.mode in ("P", "PA"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    if image.mode in ("RGB", "L") and image.has_transparency_data:
        # One color is transparent: as alpha, before it becomes another.
        image = image.convert("RGBA" if image.mode == "RGB" else "LA")
    return to_srgb(image)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits as mode L, which Pillow itself would clip at 255."""
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        raise FlexvarError(
            f"{int((~np.isfinite(values)).sum())} of its numbers are infinite or none (NaN)"
        )
    lowest, highest = values.min(initial=0), values.max(initial=0)
    white = _white(image, lowest, highest, bool((values == np.rint(values)).all()))
    scaled = (values * (255 / white)).clip(0, 255).round().astype(np.uint8)
    # Only what concerns colors goes along.
    result = Image.fromarray(scaled)
    if profile := image.info.get("icc_profile"):
        result.info["icc_profile"] = profile
    return result


def _white(image: Image.Image, lowest: float, highest: float, whole: bool) -> float:
    """The number that is white in a picture of many levels."""
    if image.mode == "F":
        if lowest >= -SLACK and highest <= 1 + SLACK:
            return 1
        # Numbers a little above 1 are light that is too bright, not eight bits.
        if lowest >= 0 and highest <= 255 and (whole or highest > 32):
            return 255
    elif lowest >= 0:
        if image.mode != "I" or image.format == "PNG":
            return 65535
        # Mode I holds 32 bits, but is mostly made of fewer.
        for white in (255, 65535):
            if highest <= white:
                return white
        if highest >= 2**24:
            return 2**31 - 1
    raise FlexvarError(
        f"its numbers go from {lowest:g} to {highest:g}; expected [0,1], [0,255], or whole ones of "
        "16 or 32 bits"
    )


def to_tensor(image: Image.Image) -> Tensor:
    """A picture as a (3,H,W) fp32 tensor in [-1,1]."""
    values = np.asarray(to_rgb(image), dtype=np.float32)
    return torch.from_numpy(values / 127.5 - 1).permute(2, 0, 1).contiguous()


def read_settings(path: str | Path | BinaryIO) -> dict[str, Any]:
    """The settings that a PNG of flexvar carries. Raises `FlexvarError` if it has none."""
    name = printable(path)
    check_regular(path, name)
    try:
        with Image.open(path) as image:
            image.load()
            text = image.info.get(SETTINGS_KEY)
    except FileNotFoundError:
        raise FlexvarError(f"There is no picture {name}.") from None
    except Exception as error:
        why = printable(error, most=300)
        raise FlexvarError(f"{name} cannot be read as a picture: {why}") from None
    if text is None:
        raise FlexvarError(f"{name} carries no settings of flexvar.")
    try:
        settings = json.loads(text, parse_float=_finite, parse_constant=_finite)
    except (ValueError, TypeError, RecursionError) as error:
        raise FlexvarError(
            f"{name} carries settings that are no JSON ({printable(error, most=200)})."
        ) from None
    if not isinstance(settings, dict):
        raise FlexvarError(f"{name} carries settings of another form than flexvar writes.")
    return settings


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is no number of JSON")
    return number
