"""Picture files and Pillow images -> RGB pictures and tensors."""

from __future__ import annotations

import json
import os
import stat
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError
from torch import Tensor

from flexvar.errors import FlexvarError
from flexvar.text import printable

SETTINGS_KEY = "flexvar"


def open_image(
    source: str | Path | BinaryIO, *, enough: tuple[int, int] | None = None, name: str = ""
) -> Image.Image:
    """The picture in a file, upright and in RGB; of several the first.

    enough: (height, width) beyond which pixels are not needed; a JPEG may then be decoded at a
    half, a quarter or an eighth of its size, but not below it. name: what messages call an open
    file.
    Raises `FlexvarError` if there is none, or it cannot be read.
    """
    name = printable(name or source)
    check_regular(source, name)
    try:
        with Image.open(source) as image:
            if enough is not None:
                # Both ways round, as the EXIF may say that it lies on its side.
                side = max(enough)
                image.draft(None, (side, side))
            return to_rgb(image)
    except FileNotFoundError:
        raise FlexvarError(f"There is no picture {name}.") from None
    except UnidentifiedImageError:
        raise FlexvarError(f"{name} cannot be read as a picture: not a known format") from None
    except Exception as error:
        # In damaged files Pillow's decoders stumble over anything: struct.error, IndexError, ...
        raise FlexvarError(f"{name} cannot be read as a picture: {error}") from None


def check_regular(source: object, name: str) -> None:
    """Raise `FlexvarError` for a path to a pipe or a device, which may never end, or begin."""
    if isinstance(source, str | Path):
        try:
            mode = os.stat(source).st_mode
        except (OSError, ValueError):
            return  # opening it says what is wrong
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise FlexvarError(f"{name} is a pipe or a device, not a file.")


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode in RGB: turned upright by its EXIF, transparency on white.

    Grey of 16 bits is scaled, not clipped; floating point is taken as [0,1] if nothing is above
    1, else as [0,255].
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        image = _eight_bits(image)
    if image.mode == "CMYK":
        image = _from_cmyk(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of more than 8 bits as mode L, which Pillow itself would clip at 255."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    highest = values.max(initial=0)
    if image.mode == "F":
        white = 1 if highest <= 1 else 255
    else:
        # Mode I holds 32 bits, but is mostly read from files of 16.
        white = 65535 if highest <= 65535 else 2**31 - 1
    return Image.fromarray((values * (255 / white)).clip(0, 255).round().astype(np.uint8))


def _from_cmyk(image: Image.Image) -> Image.Image:
    """CMYK by its own profile, as print inks are far from pure colours; without one, plainly."""
    profile = image.info.get("icc_profile")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(BytesIO(profile))
            target = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
            return converted if converted is not None else image
        except (ImageCms.PyCMSError, OSError):
            pass
    return image.convert("RGB")


def to_tensor(image: Image.Image) -> Tensor:
    """A picture as a (3,H,W) fp32 tensor in [-1,1]."""
    values = np.asarray(to_rgb(image), dtype=np.float32)
    return torch.from_numpy(values / 127.5 - 1).permute(2, 0, 1).contiguous()


def read_settings(path: str | Path) -> dict[str, Any]:
    """The settings that a PNG of flexvar carries. Raises `FlexvarError` if it has none."""
    check_regular(path, printable(path))
    try:
        with Image.open(path) as image:
            text = image.info.get(SETTINGS_KEY)
    except (OSError, SyntaxError, ValueError) as error:
        raise FlexvarError(f"{path} cannot be read as a picture: {error}") from None
    if text is None:
        raise FlexvarError(f"{path} carries no settings of flexvar.")
    return json.loads(text)
