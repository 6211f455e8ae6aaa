"""Pictures in and out: Pillow images, tensors, contact grids, PNG files with their settings."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import (
    Image,
    ImageCms,
    ImageDraw,
    ImageFont,
    ImageOps,
    PngImagePlugin,
    UnidentifiedImageError,
)
from torch import Tensor

from flexvar.errors import FlexvarError

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
    name = name or str(source)
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


def to_pil(image_3HW: Tensor) -> Image.Image:
    """A (3,H,W) tensor in [0,1] as a picture."""
    values = (image_3HW.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).contiguous().numpy())


def contact_sheet(images: Sequence[Image.Image], gap: int = 2) -> Image.Image:
    """Pictures of one size side by side in about as many rows as columns, on white."""
    if not images:
        raise FlexvarError("There is no picture to put on a sheet.")
    columns = int(np.ceil(np.sqrt(len(images))))
    rows = -(-len(images) // columns)
    width, height = images[0].size
    sheet = Image.new(
        "RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), (255, 255, 255)
    )
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        sheet.paste(image, (column * (width + gap), row * (height + gap)))
    return sheet


def labelled_sheet(
    rows: Sequence[tuple[str, Sequence[Image.Image]]], *, scale: int = 1, gap: int = 2
) -> Image.Image:
    """Pictures of one size in rows, each with its name on the left, on white.

    scale: by how much every pixel is enlarged.
    """
    if not any(pictures for _, pictures in rows):
        raise FlexvarError("There is no picture to put on a sheet.")
    width, height = next(pictures[0].size for _, pictures in rows if pictures)
    width, height = width * scale, height * scale
    font = ImageFont.load_default(14)
    margin = int(max(font.getlength(name) for name, _ in rows)) + 12
    columns = max(len(pictures) for _, pictures in rows)
    size = (margin + columns * (width + gap) - gap, len(rows) * (height + gap) - gap)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for row, (name, pictures) in enumerate(rows):
        top = row * (height + gap)
        draw.text((4, top + height // 2), name, fill="black", font=font, anchor="lm")
        for column, picture in enumerate(pictures):
            enlarged = picture.resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(enlarged, (margin + column * (width + gap), top))
    return sheet


def save_png(image: Image.Image, path: str | Path, settings: Mapping[str, Any]) -> None:
    """Write a PNG that carries its settings as JSON; the file appears whole or not at all."""
    path = Path(path)
    info = PngImagePlugin.PngInfo()
    info.add_itxt(SETTINGS_KEY, json.dumps(settings))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        image.save(temporary, format="PNG", pnginfo=info)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise FlexvarError(f"Cannot write {path}: {error.strerror or error}.") from None


def read_settings(path: str | Path) -> dict[str, Any]:
    """The settings that a PNG of flexvar carries. Raises `FlexvarError` if it has none."""
    try:
        with Image.open(path) as image:
            text = image.info.get(SETTINGS_KEY)
    except (OSError, SyntaxError, ValueError) as error:
        raise FlexvarError(f"{path} cannot be read as a picture: {error}") from None
    if text is None:
        raise FlexvarError(f"{path} carries no settings of flexvar.")
    return json.loads(text)
