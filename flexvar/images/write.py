"""Tensors -> pictures, and pictures -> files that are whole or not there."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from flexvar.errors import FlexvarError
from flexvar.files import whole_file
from flexvar.images.read import SETTINGS_KEY

ANIMATIONS = (".webp", ".gif")


def to_pil(image_3HW: Tensor) -> Image.Image:
    """A (3,H,W) tensor in [0,1] as a picture."""
    values = (image_3HW.detach().cpu().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).contiguous().numpy())


def save_png(image: Image.Image, path: str | Path, settings: Mapping[str, Any]) -> None:
    """Write a PNG that carries its settings as JSON; the file appears whole or not at all."""
    data = encode_png(image, settings)
    with whole_file(Path(path)) as temporary:
        temporary.write_bytes(data)


def encode_png(image: Image.Image, settings: Mapping[str, Any]) -> bytes:
    """The bytes of a PNG that carries its settings as JSON."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt(SETTINGS_KEY, json.dumps(settings))
    data = io.BytesIO()
    image.save(data, format="PNG", pnginfo=info)
    return data.getvalue()


def animate(pictures: Sequence[Image.Image], path: str | Path, *, seconds: float = 0.25) -> Path:
    """Write a looping WebP or GIF, by the ending of ``path``; the last picture stays longer.

    Raises `FlexvarError` for another ending, or a file that cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in ANIMATIONS:
        raise FlexvarError(f"{path}: an animation ends in {' or '.join(ANIMATIONS)}.")
    if not pictures:
        raise FlexvarError("There is no picture to animate.")
    each = round(seconds * 1000)
    times = [each] * (len(pictures) - 1) + [6 * each]
    options = {"lossless": True} if path.suffix.lower() == ".webp" else {}
    with whole_file(path) as temporary:
        pictures[0].save(
            temporary,
            format=path.suffix[1:].upper(),
            save_all=True,
            append_images=list(pictures[1:]),
            duration=times,
            loop=0,
            **options,
        )
    return path
