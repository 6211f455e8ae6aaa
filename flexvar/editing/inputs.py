"""Pictures, masks and boxes as a user gives them -> tensors of one size.

Images come out as (B,3,H,W) fp32 in [0,1], masks as (B,H,W) bool, true where to generate.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from flexvar import images
from flexvar.errors import FlexvarError, shown
from flexvar.text import printable
from flexvar.values import plain, real, whole

# Longest side in pixels of a picture that is taken, unless told: 200 MB as an RGB file, before
# any network sees it.
MAX_SIDE = 8192


class Stored(NamedTuple):
    """A picture in a profile of its own: its RGB pixels as they are there, and the profile."""

    image: Image.Image
    profile: bytes


def read_images(source: Any, max_side: int = MAX_SIDE) -> Tensor:
    """Pictures as one tensor (B,3,H,W) fp32 in [0,1], in sRGB.

    source: a Pillow image of any mode, a path, an array or a tensor - or a list of those, all of
    one size. Arrays are (H,W), (H,W,C) or (C,H,W), tensors (C,H,W), (H,W,C) or the same with a
    batch before, of 1 or 3 channels (arrays also 4, the last is opacity): uint8, or floating
    point in [0,1].
    Raises `FlexvarError` for what is no picture, differs in size, or has a side over
    ``max_side``, which is seen before a file is decoded.
    """
    return read_pictures(source, max_side)[0]


def read_pictures(
    source: Any, max_side: int = MAX_SIDE
) -> tuple[Tensor, tuple[Stored | None, ...]]:
    """What `read_images` gives, and each picture that has a profile of its own as it is in it."""
    many = isinstance(source, list | tuple)
    parts, stored = [], []
    for one in source if many else [source]:
        part, own = _read_image(one, max_side)
        parts.append(part)
        stored += [own] * len(part)
    if not parts:
        raise FlexvarError("image: there is none; give at least one.")
    if len({part.shape[-2:] for part in parts}) > 1:
        sizes = ", ".join(f"{part.shape[-2]}x{part.shape[-1]}" for part in parts)
        raise FlexvarError(
            f"image: pictures of one call have to share a size, got {sizes}; edit them one by one."
        )
    return torch.cat(parts), tuple(stored)


def open_picture(source: Any, max_side: int = MAX_SIDE) -> Image.Image:
    """One picture, path or array as `read_images` takes it, as a Pillow image in RGB."""
    return _rgb(_open(source, "image", max_side))


def _read_image(source: Any, max_side: int) -> tuple[Tensor, Stored | None]:
    if isinstance(source, np.ndarray) and source.dtype.kind == "f":
        values = _channels_first(source, last=True)
        source = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    if isinstance(source, Tensor):
        return _from_tensor(source, max_side), None
    picture = _open(source, "image", max_side)
    rgb = _rgb(picture)
    values = np.asarray(rgb, dtype=np.float32) / 255
    profile = images.rgb_profile(picture)
    stored = None
    if profile is not None:
        plain = images.upright(picture)
        plain.info.pop("icc_profile")
        stored = Stored(images.to_rgb(plain), profile)
    return rearrange(torch.from_numpy(values), "H W C -> 1 C H W"), stored


def _from_tensor(source: Tensor, max_side: int) -> Tensor:
    shape = tuple(source.shape)
    if source.is_meta:
        raise FlexvarError(
            f"image: got a tensor of {shape} on the meta device, which has no values."
        )
    many = source[None] if source.ndim in (2, 3) else source
    if source.ndim == 2:
        many = many[None]
    if many.ndim == 4 and many.shape[1] not in (1, 3) and many.shape[3] in (1, 3):
        many = many.permute(0, 3, 1, 2)
    if many.ndim != 4 or many.shape[1] not in (1, 3) or 0 in many.shape:
        raise FlexvarError(f"image: got a tensor of shape {shape}; expected (3,H,W) or (B,3,H,W)")
    check_side(many.shape[-2], many.shape[-1], max_side)
    image = many.detach().cpu().expand(-1, 3, -1, -1)
    if image.dtype == torch.uint8:
        return image.float() / 255
    image = image.float()
    if not bool(((image >= -1e-3) & (image <= 1 + 1e-3)).all()):
        low, high = float(image.min()), float(image.max())
        raise FlexvarError(
            f"image: got values from {low:g} to {high:g} in a tensor of {source.dtype}; expected "
            "[0,1], or uint8."
        )
    return image


def _channels_first(values: np.ndarray[Any, Any], *, last: bool) -> np.ndarray[Any, Any]:
    """An array (H,W), (H,W,C) or (C,H,W) as (C,H,W), without opacity; others as they are."""
    if values.ndim == 2:
        return values[None]
    if values.ndim == 3 and values.shape[2] in (1, 3) and (last or values.shape[0] not in (1, 3)):
        return np.moveaxis(values, 2, 0)
    return values


def _rgb(picture: Image.Image, what: str = "image") -> Image.Image:
    try:
        return images.to_rgb(picture)
    except FlexvarError as error:
        raise FlexvarError(f"{what}: it cannot be read as a picture: {error}.") from None


def _open(source: Any, what: str, max_side: int) -> Image.Image:
    """A picture in memory as it is, or one in a file, upright, in the colors of the file."""
    if isinstance(source, np.ndarray):
        shape, values = source.shape, source
        if values.ndim == 3 and values.shape[2] not in (1, 3, 4) and values.shape[0] in (1, 3, 4):
            values = np.moveaxis(values, 0, 2)
        if values.ndim == 3 and values.shape[2] == 1:
            values = values[:, :, 0]
        fits = values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (3, 4))
        if source.dtype != np.uint8 or not fits or 0 in shape:
            raise FlexvarError(
                f"{what}: got an array of shape {shape} and type {source.dtype}; expected "
                "(H,W), (H,W,3), (H,W,4) or the channels first, uint8, or floating point in [0,1]."
            )
        source = Image.fromarray(np.ascontiguousarray(values))
    if isinstance(source, Image.Image):
        check_side(source.height, source.width, max_side, what)
        return source
    if not isinstance(source, str | Path):
        raise FlexvarError(
            f"{what}: got {type(source).__name__}; expected a picture, its path, an array or a "
            "tensor."
        )
    name = printable(source)
    images.check_regular(source, name)
    size = None
    try:
        # The header alone; Pillow's own limit only warns, ours is told by name.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(source) as picture:
                size = picture.size
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+ pixels", str(error))
        raise FlexvarError(
            f"{what} {name}: {pixels[0] if pixels else 'its size'} are more than Pillow takes; "
            f"make it smaller than {max_side} a side, or raise PIL.Image.MAX_IMAGE_PIXELS and "
            "max_side."
        ) from None
    except Exception:
        pass  # open_image says what is wrong
    if size is not None:
        check_side(size[1], size[0], max_side, f"{what} {name}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return images.open_image(source, stored=True)


def check_side(height: int, width: int, max_side: int, what: str = "image") -> None:
    """Raise `FlexvarError` for a picture with a side over ``max_side`` pixels."""
    max_side = whole("max_side", max_side)
    if max(height, width) > max_side:
        raise FlexvarError(
            f"{what}: {height}x{width} pixels are more than {max_side} a side; make it smaller, or "
            f"allow it by max_side={max(height, width)}."
        )


def read_masks(source: Any, size: tuple[int, int], count: int) -> Tensor:
    """Masks (count,H,W) bool, true where to generate, for pictures of ``size`` (H,W).

    source: a picture of any mode, its path, an array or a tensor - one for all pictures, or a
    list or a (B,H,W) tensor with one each. 255 is to be generated, from 128 on; so is True, and
    1 where nothing is above 1 (from 0.5 on). Transparent pixels are kept; where nothing is white
    but some is painted on transparent ground, the painted pixels are generated, with a warning.
    Raises `FlexvarError` for a mask of another size than the pictures, or another number.
    """
    if isinstance(source, list | tuple):
        parts = [_read_mask(one, size) for one in source]
    else:
        parts = [_read_mask(source, size)]
    if not parts:
        raise FlexvarError("mask: there is none.")
    masks = torch.cat(parts)
    if len(masks) not in (1, count):
        raise FlexvarError(f"mask: {len(masks)} masks for {count} pictures; give one, or one each.")
    return masks.expand(count, -1, -1)


def _read_mask(source: Any, size: tuple[int, int]) -> Tensor:
    picture = None
    if isinstance(source, str | Path):
        picture = _open(source, "mask", max(MAX_SIDE, *size))
    elif isinstance(source, Image.Image):
        picture = source
    elif isinstance(source, np.ndarray) and source.ndim == 3 and source.shape[2] in (3, 4):
        picture = _open(source, "mask", max(MAX_SIDE, *size))
    elif isinstance(source, np.ndarray | Tensor) and source.ndim == 3 and source.shape[2] == 1:
        source = source[:, :, 0]
    if picture is not None:
        source = _grey_mask(picture)
    try:
        given = np.array(source) if isinstance(source, np.ndarray) else source
        values = torch.as_tensor(given, device="cpu")
    except (TypeError, ValueError, RuntimeError):
        raise FlexvarError(
            f"mask: got {type(source).__name__}; expected a picture, its path, an array or a tensor"
        ) from None
    if values.ndim == 4 and values.shape[1] == 1:
        values = values[:, 0]
    values = values[None] if values.ndim == 2 else values
    if values.ndim != 3 or tuple(values.shape[1:]) != tuple(size):
        shape = "x".join(map(str, values.shape[-2:]))
        raise FlexvarError(
            f"mask: {shape} pixels (height x width) for a picture of {size[0]}x{size[1]}; a mask "
            "has the size of its picture."
        )
    values = values.detach().cpu()
    if values.dtype == torch.bool:
        return values
    if values.dtype == torch.uint16:
        return values.float() > 65535 / 2
    values = values.float()
    return values > (0.5 if float(values.max()) <= 1 else 127.5)


def _grey_mask(picture: Image.Image) -> np.ndarray[Any, Any]:
    """The brightness of a mask, black where it is transparent.

    A mask painted on a transparent picture in a dark color has no white at all: what is painted
    there, its opacity, is what is meant.
    """
    # A mask is numbers, not colors.
    picture.info.pop("icc_profile", None)
    if not picture.has_transparency_data:
        return np.asarray(_rgb(picture, "mask").convert("L"))
    rgba = images.upright(picture).convert("RGBA")
    black = Image.new("RGBA", rgba.size, "black")
    grey = np.asarray(Image.alpha_composite(black, rgba).convert("RGB").convert("L"))
    opaque = np.asarray(rgba.getchannel("A")) >= 128
    if not (grey >= 128).any() and opaque.any() and not opaque.all():
        warnings.warn(
            "mask: nothing in it is white, but some of it is painted and the rest transparent; "
            "what is painted is generated.",
            stacklevel=2,
        )
        return np.where(opaque, np.uint8(255), np.uint8(0))
    return grey


def box_masks(
    box: Sequence[int] | Sequence[Sequence[int]], size: tuple[int, int], count: int
) -> Tensor:
    """Masks (count,H,W) that are true inside a box, or inside one box per picture.

    box: (left, top, right, bottom) in pixels, right and bottom exclusive, as Pillow has them.
    Raises `FlexvarError` for one that is empty or reaches out of the picture.
    """
    given = plain(box)
    if not isinstance(given, list | tuple):
        raise FlexvarError(f"box: got {shown(given)}; expected left, top, right, bottom in pixels.")
    many = bool(given) and isinstance(given[0], list | tuple)
    boxes: list[Any] = list(given) if many else [given]
    if len(boxes) not in (1, count):
        raise FlexvarError(f"box: {len(boxes)} boxes for {count} pictures; give one, or one each.")
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool, device="cpu")
    for mask_HW, one in zip(masks, boxes, strict=True):
        sides = [real("box", side) for side in one] if isinstance(one, list | tuple) else []
        if len(sides) != 4 or not all(side.is_integer() for side in sides):
            raise FlexvarError(
                f"box: got {shown(one)}; expected left, top, right, bottom in pixels."
            )
        left, top, right, bottom = map(int, sides)
        if not (0 <= left < right <= size[1] and 0 <= top < bottom <= size[0]):
            raise FlexvarError(
                f"box: {left},{top},{right},{bottom} (left, top, right, bottom) does not lie in "
                f"the picture: 0 <= left < right <= {size[1]}, 0 <= top < bottom <= {size[0]}."
            )
        mask_HW[top:bottom, left:right] = True
    return masks.expand(count, -1, -1)


def in_own_colors(
    made: Image.Image,
    stored: Stored,
    known_HW: Tensor | None,
    corner: tuple[int, int] = (0, 0),
) -> Image.Image:
    """A result in sRGB in its picture's own profile, the known pixels as they are there.

    known_HW: bool, true where the picture is kept; None for nowhere. corner: (top, left) of the
    picture in the result.
    """
    result = images.from_srgb(made, stored.profile)
    if known_HW is None:
        return result
    canvas = Image.new("RGB", made.size)
    canvas.paste(stored.image, (corner[1], corner[0]))
    keep = Image.fromarray(known_HW.cpu().numpy().astype(np.uint8) * 255)
    result.paste(canvas, (0, 0), keep)
    return result
