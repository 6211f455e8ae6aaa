"""Pictures, masks and boxes as a user gives them -> tensors of one size.

Images come out as (B,3,H,W) fp32 in [0,1], masks as (B,H,W) bool, true where to generate.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from flexvar import images
from flexvar.errors import FlexvarError

# Longest side in pixels of a picture that is taken, unless told: 200 MB as an RGB file, before
# any network sees it.
MAX_SIDE = 8192


def read_images(source: Any, max_side: int = MAX_SIDE) -> Tensor:
    """Pictures as one tensor (B,3,H,W) fp32 in [0,1].

    source: a Pillow image of any mode, a path, an array (H,W), (H,W,3) or (H,W,4) uint8, a
    tensor (3,H,W) or (B,3,H,W) in [0,1] - or a list of those, all of one size.
    Raises `FlexvarError` for what is no picture, differs in size, or has a side over
    ``max_side``, which is seen before a file is decoded.
    """
    many = isinstance(source, list | tuple)
    parts = [_read_image(one, max_side) for one in (source if many else [source])]
    if not parts:
        raise FlexvarError("image: there is none; give at least one.")
    if len({part.shape[-2:] for part in parts}) > 1:
        sizes = ", ".join(f"{part.shape[-2]}x{part.shape[-1]}" for part in parts)
        raise FlexvarError(
            f"image: pictures of one call have to share a size, got {sizes}; edit them one by one."
        )
    return torch.cat(parts)


def _read_image(source: Any, max_side: int) -> Tensor:
    if isinstance(source, Tensor):
        image = source[None] if source.ndim == 3 else source
        if image.ndim != 4 or image.shape[1] != 3 or 0 in image.shape:
            raise FlexvarError(
                f"image: got a tensor of shape {tuple(source.shape)}; expected (3,H,W) or (B,3,H,W)"
            )
        check_side(image.shape[-2], image.shape[-1], max_side)
        image = image.detach().cpu().float()
        if not bool(((image >= -1e-3) & (image <= 1 + 1e-3)).all()):
            low, high = float(image.min()), float(image.max())
            raise FlexvarError(
                f"image: got values from {low:g} to {high:g} in a tensor; expected [0,1]."
            )
        return image
    picture = _open(source, "image", max_side)
    values = np.asarray(images.to_rgb(picture), dtype=np.float32) / 255
    return rearrange(torch.from_numpy(values), "H W C -> 1 C H W")


def _open(source: Any, what: str, max_side: int) -> Image.Image:
    """A picture in memory as it is, or one in a file, upright and in RGB."""
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim not in (2, 3):
            raise FlexvarError(
                f"{what}: got an array of shape {source.shape} and type {source.dtype}; expected "
                "(H,W), (H,W,3) or (H,W,4) uint8."
            )
        source = Image.fromarray(source)
    if isinstance(source, Image.Image):
        check_side(source.height, source.width, max_side, what)
        return source
    if not isinstance(source, str | Path):
        raise FlexvarError(
            f"{what}: got {type(source).__name__}; expected a picture, its path, an array or a "
            "tensor."
        )
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
            f"{what} {source}: {pixels[0] if pixels else 'its size'} are more than Pillow takes; "
            f"make it smaller than {max_side} a side, or raise PIL.Image.MAX_IMAGE_PIXELS and "
            "max_side."
        ) from None
    except Exception:
        pass  # open_image says what is wrong
    if size is not None:
        check_side(size[1], size[0], max_side, f"{what} {source}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return images.open_image(source)


def check_side(height: int, width: int, max_side: int, what: str = "image") -> None:
    """Raise `FlexvarError` for a picture with a side over ``max_side`` pixels."""
    if max(height, width) > max_side:
        raise FlexvarError(
            f"{what}: {height}x{width} pixels are more than {max_side} a side; make it smaller, or "
            f"allow it by max_side={max(height, width)}."
        )


def read_masks(source: Any, size: tuple[int, int], count: int) -> Tensor:
    """Masks (count,H,W) bool, true where to generate, for pictures of ``size`` (H,W).

    source: a picture of any mode, its path, an array or a tensor - one for all pictures, or a
    list or a (B,H,W) tensor with one each. 255 is to be generated, from 128 on; so is True, and
    1 where nothing is above 1 (from 0.5 on). Transparent pixels are kept.
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
        with Image.open(source) as stored:
            if stored.has_transparency_data:
                picture = stored.copy()
    elif isinstance(source, Image.Image):
        picture = source
    elif isinstance(source, np.ndarray) and source.ndim == 3 and source.shape[2] in (3, 4):
        picture = _open(source, "mask", max(MAX_SIDE, *size))
    if picture is not None:
        if picture.has_transparency_data:
            black = Image.new("RGBA", picture.size, "black")
            picture = Image.alpha_composite(black, picture.convert("RGBA"))
        source = np.asarray(images.to_rgb(picture).convert("L"))
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


def box_masks(
    box: Sequence[int] | Sequence[Sequence[int]], size: tuple[int, int], count: int
) -> Tensor:
    """Masks (count,H,W) that are true inside a box, or inside one box per picture.

    box: (left, top, right, bottom) in pixels, right and bottom exclusive, as Pillow has them.
    Raises `FlexvarError` for one that is empty or reaches out of the picture.
    """
    many = bool(box) and isinstance(box[0], list | tuple)
    boxes: list[Any] = list(box) if many else [box]
    if len(boxes) not in (1, count):
        raise FlexvarError(f"box: {len(boxes)} boxes for {count} pictures; give one, or one each.")
    masks = torch.zeros(len(boxes), *size, dtype=torch.bool, device="cpu")
    for mask_HW, one in zip(masks, boxes, strict=True):
        if len(one) != 4:
            raise FlexvarError(f"box: got {one}; expected left, top, right, bottom in pixels.")
        left, top, right, bottom = map(int, one)
        if not (0 <= left < right <= size[1] and 0 <= top < bottom <= size[0]):
            raise FlexvarError(
                f"box: {left},{top},{right},{bottom} (left, top, right, bottom) does not lie in "
                f"the picture: 0 <= left < right <= {size[1]}, 0 <= top < bottom <= {size[0]}."
            )
        mask_HW[top:bottom, left:right] = True
    return masks.expand(count, -1, -1)
