"""Pictures in and out: Pillow images, tensors, contact grids, PNG files with their settings."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from flexvar.errors import FlexvarError

SETTINGS_KEY = "flexvar"


def open_image(path: str | Path) -> Image.Image:
    """The picture in a file, upright and in RGB. Raises `FlexvarError` if there is none."""
    try:
        with Image.open(path) as image:
            return to_rgb(image)
    except FileNotFoundError:
        raise FlexvarError(f"There is no picture {path}.") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise FlexvarError(f"{path} cannot be read as a picture: {error}") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode in RGB: turned upright by its EXIF, transparency on white."""
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I;16", "I;16B", "I;16L", "I"):
        # Pillow clips 16-bit grey at 255 instead of scaling it.
        values = np.asarray(image, dtype=np.float32) / 257
        image = Image.fromarray(values.clip(0, 255).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
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
