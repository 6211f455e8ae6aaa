"""Tensors -> pictures, and pictures -> files that are whole or not there."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from flexvar.errors import FlexvarError
from flexvar.files import whole_file
from flexvar.images.read import SETTINGS_KEY
from flexvar.values import plain, writable

ANIMATIONS = (".webp", ".gif")


def to_pil(image_3HW: Tensor) -> Image.Image:
    """A (3,H,W) tensor in [0,1] as a picture."""
    return to_pils(image_3HW[None])[0]


def to_pils(images_B3HW: Tensor) -> list[Image.Image]:
    """(B,3,H,W) in [0,1] as pictures: rounded where they are, so that bytes are copied, once."""
    values = (images_B3HW.detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return [Image.fromarray(one) for one in values.permute(0, 2, 3, 1).contiguous().cpu().numpy()]


# What IPTC calls a picture made by a trained model (newscodes, digitalsourcetype).
XMP = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
    " Iptc4xmpExt:DigitalSourceType="
    '"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/>'
    '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)


def save_png(
    image: Image.Image, path: str | Path, settings: Mapping[str, Any], *, mark: bool = True
) -> None:
    """Write `encode_png`; the file appears whole or not at all."""
    data = encode_png(image, settings, mark=mark)
    with whole_file(Path(path)) as temporary:
        temporary.write_bytes(data)


def encode_png(image: Image.Image, settings: Mapping[str, Any], *, mark: bool = True) -> bytes:
    """The bytes of a PNG that carries its settings as JSON.

    mark: also say in its XMP that a trained model made it (DigitalSourceType
    trainedAlgorithmicMedia, IPTC), which other programs read.
    """
    info = PngImagePlugin.PngInfo()
    info.add_itxt(SETTINGS_KEY, json.dumps(plain(settings), default=writable))
    if mark:
        info.add_itxt("XML:com.adobe.xmp", XMP)
    data = io.BytesIO()
    image.save(data, format="PNG", pnginfo=info)
    return data.getvalue()


def save_picture(image: Image.Image, path: str | Path, *, mark: bool = True) -> Path:
    """Write a generated picture as PNG, JPEG or WebP, by the ending of ``path``.

    mark: as in `encode_png`. Raises `FlexvarError` for another ending.
    """
    path = Path(path)
    kinds = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        raise FlexvarError(f"{path}: a picture ends in {', '.join(kinds)}.")
    if kind == "PNG":
        save_png(image, path, {}, mark=mark)
        return path
    options: dict[str, Any] = {"quality": 95}
    if mark:
        options["xmp"] = XMP.encode()
    with whole_file(path) as temporary:
        image.save(temporary, format=kind, **options)
    return path


def animate(
    pictures: Sequence[Image.Image],
    path: str | Path,
    *,
    seconds: float = 0.25,
    mark: bool = True,
) -> Path:
    """Write a looping WebP or GIF, by the ending of ``path``; the last picture stays longer.

    mark: as in `encode_png`, in a WebP.

    Raises `FlexvarError` for another ending, or a file that cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in ANIMATIONS:
        raise FlexvarError(f"{path}: an animation ends in {' or '.join(ANIMATIONS)}.")
    if not pictures:
        raise FlexvarError("There is no picture to animate.")
    with whole_file(path) as temporary:
        write_animation(pictures, temporary, path.suffix[1:].upper(), seconds=seconds, mark=mark)
    return path


def write_animation(
    pictures: Sequence[Image.Image],
    target: Path | IO[bytes],
    kind: str,
    *,
    seconds: float = 0.25,
    mark: bool = True,
) -> None:
    """Write a looping picture to a file that is there; see `animate`. kind: WEBP or GIF."""
    each = round(seconds * 1000)
    times = [each] * (len(pictures) - 1) + [6 * each]
    options: dict[str, Any] = {}
    if kind == "WEBP":
        options = {"lossless": True, **({"xmp": XMP.encode()} if mark else {})}
    pictures[0].save(
        target,
        format=kind,
        save_all=True,
        append_images=list(pictures[1:]),
        duration=times,
        loop=0,
        **options,
    )
