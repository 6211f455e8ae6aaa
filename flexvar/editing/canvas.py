"""Pictures before and after editing: growing, filling in, resizing, pasting back.

All tensors are at the picture's own size: images (B,3,H,W) fp32 in [0,1], masks (B,H,W) bool,
true where there is something to generate.
"""

from __future__ import annotations

from math import sqrt
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from flexvar.errors import FlexvarError, shown
from flexvar.values import plain, real, whole

Fill = Literal["reflect", "edge", "smooth"]
FILLS: tuple[Fill, ...] = get_args(Fill)
# Pictures up to this many times the side a model was trained at, or down to its inverse, are
# edited at their own size: FlexVAR's textures become wavy from 3 times on (arXiv 2502.20313).
MOST_ZOOM = 3.0


def margins_of(
    size: tuple[int, int],
    ratio: float | tuple[float, float] | None,
    margins: int | tuple[int, int, int, int] | None,
) -> tuple[int, int, int, int]:
    """How far a canvas reaches over a picture of ``size``: (top, right, bottom, left) in pixels.

    ratio: how many times as high and as wide the canvas is, the picture in its centre; one number
    is both. margins: the pixels themselves, one number for all sides.
    Raises `FlexvarError` unless one of them is given and makes the canvas larger.
    """
    if (ratio is None) == (margins is None):
        raise FlexvarError("Give either ratio or margins: ratio=(1, 2) is twice as wide.")
    if ratio is not None:
        ratio = plain(ratio)
        pair = ratio if isinstance(ratio, tuple | list) else (ratio, ratio)
        if len(pair) != 2:
            raise FlexvarError(f"ratio: got {shown(ratio)}; expected a number, or two of them.")
        rows, columns = (real("ratio", side) for side in pair)
        if not (1 <= rows < float("inf") and 1 <= columns < float("inf")):
            raise FlexvarError(
                f"ratio: {rows:g}:{columns:g} would make the canvas smaller than the picture; both "
                "numbers, times its height and times its width, are at least 1."
            )
        more = round(size[0] * rows) - size[0], round(size[1] * columns) - size[1]
        result = more[0] // 2, more[1] - more[1] // 2, more[0] - more[0] // 2, more[1] // 2
    else:
        margins = plain(margins)
        given = margins if isinstance(margins, tuple | list) else (margins,) * 4
        sides = tuple(whole("margins", side) for side in given)
        if len(sides) != 4 or min(sides) < 0:
            raise FlexvarError(
                f"margins: got {shown(margins)}; expected pixels from 0 on: one number, or top, "
                "right, bottom, left."
            )
        top, right, bottom, left = sides
        result = top, right, bottom, left
    if not any(result):
        raise FlexvarError(
            f"The canvas is no larger than the picture, {size[0]}x{size[1]}: there is nothing to "
            "generate."
        )
    return result


def grow(image_B3HW: Tensor, margins: tuple[int, int, int, int], fill: Fill) -> Tensor:
    """The picture on a larger canvas, whose margins are made up from it.

    fill: ``reflect`` mirrors the picture, ``edge`` repeats its last pixels, ``smooth`` carries
    them on more and more blurred. What the encoder sees there colours the tokens that are kept
    next to it, and a mirrored picture is the most like a picture.
    """
    if fill not in FILLS:
        raise FlexvarError(f"fill: got {fill!r}; expected {', '.join(FILLS)}.")
    top, right, bottom, left = margins
    height, width = image_B3HW.shape[-2:]
    device = image_B3HW.device
    rows = torch.arange(-top, height + bottom, device=device)
    columns = torch.arange(-left, width + right, device=device)
    inside_HW = ((rows >= 0) & (rows < height))[:, None] & ((columns >= 0) & (columns < width))
    if fill == "reflect":
        rows, columns = (
            torch.where(i % (2 * n) < n, i % (2 * n), 2 * n - 1 - i % (2 * n))
            for i, n in ((rows, height), (columns, width))
        )
    canvas = image_B3HW[..., rows.clamp(0, height - 1)[:, None], columns.clamp(0, width - 1)]
    if fill == "smooth":
        return fill_in(canvas, ~inside_HW.expand(len(canvas), -1, -1))
    return canvas


def fill_in(image_B3HW: Tensor, unknown_BHW: Tensor) -> Tensor:
    """The picture with the unknown pixels made up from the known ones around, smoothly.

    Known pixels are averaged into ever coarser pictures until none is unknown, and what is
    unknown is read from the next coarser one. Grey where nothing is known at all.
    """
    known_B1HW = (~unknown_BHW)[:, None].to(image_B3HW.dtype)
    return _fill_in(image_B3HW * known_B1HW, known_B1HW)


def _fill_in(image_B3HW: Tensor, known_B1HW: Tensor) -> Tensor:
    if bool(known_B1HW.all()):
        return image_B3HW
    height, width = image_B3HW.shape[-2:]
    if height == width == 1:
        return torch.where(known_B1HW > 0, image_B3HW, 0.5)
    share = F.avg_pool2d(known_B1HW, 2, ceil_mode=True)
    half = F.avg_pool2d(image_B3HW, 2, ceil_mode=True) / share.clamp(min=1e-6)
    coarse = _fill_in(half, (share > 0).to(share.dtype))
    smooth = F.interpolate(coarse, size=(height, width), mode="bilinear")
    return torch.where(known_B1HW > 0, image_B3HW, smooth)


def model_size(size: tuple[int, int], trained: tuple[int, int], stride: int) -> tuple[int, int]:
    """The size (height, width), in multiples of the stride, that a picture is edited at.

    The nearest to its own. A picture of over three times the side the model was trained at, or
    less than a third of it (by area), is brought to the trained area in its own shape.
    """
    zoom = sqrt(size[0] * size[1] / (trained[0] * trained[1]))
    scale = 1.0 if 1 / MOST_ZOOM <= zoom < MOST_ZOOM else 1 / zoom
    height, width = (max(1, round(side * scale / stride)) * stride for side in size)
    return height, width


def alike(own: tuple[int, int], size: tuple[int, int], stride: int) -> bool:
    """Whether a size has the shape of a picture of ``own``, to within a cell."""
    height, width = own[0] * size[1] / own[1], own[1] * size[0] / own[0]
    return abs(size[0] - height) <= stride or abs(size[1] - width) <= stride


def larger(own: tuple[int, int], size: tuple[int, int], stride: int) -> bool:
    """Whether a size has more cells than a picture of ``own`` in height or width."""
    cells = [max(1, round(side / stride)) for side in own]
    return size[0] // stride > cells[0] or size[1] // stride > cells[1]


def refined_size(
    own: tuple[int, int], size: tuple[int, int], stride: int
) -> tuple[int, int] | None:
    """The size nearest to ``size`` that a picture of ``own`` can be refined to; None for none."""
    found = []
    most = 2 * max(*own, *size, stride)
    for height in range(stride, most + stride, stride):
        width = max(1, round(own[1] * height / own[0] / stride)) * stride
        if alike(own, (height, width), stride) and larger(own, (height, width), stride):
            found.append((height, width))
    return min(found, key=lambda one: abs(one[0] - size[0]) + abs(one[1] - size[1]), default=None)


def resize(image_B3HW: Tensor, size: tuple[int, int]) -> Tensor:
    """The picture at another size, bicubic with anti-aliasing, in [0,1]; itself at its own."""
    if tuple(image_B3HW.shape[-2:]) == tuple(size):
        return image_B3HW
    resized = F.interpolate(image_B3HW, size=tuple(size), mode="bicubic", antialias=True)
    return resized.clamp(0, 1)


def paste(
    original_B3HW: Tensor, generated_B3HW: Tensor, generate_BHW: Tensor, feather: int
) -> Tensor:
    """The original with the generated pixels put in where the mask is true.

    feather: pixels outside the mask over which one fades into the other, 0 for a hard edge.
    Inside the mask nothing of the original is left; beyond the feather nothing else.
    """
    alpha_B1HW = feathered(generate_BHW, feather)
    return alpha_B1HW * generated_B3HW + (1 - alpha_B1HW) * original_B3HW


def feathered(generate_BHW: Tensor, feather: int) -> Tensor:
    """Weights (B,1,H,W): 1 in the mask, falling to 0 over ``feather`` pixels outside of it."""
    alpha = generate_BHW[:, None].float()
    radius = (feather + 1) // 2
    if radius < 1:
        return alpha
    # The mask grown by a radius, then averaged over that radius: 1 wherever the mask was.
    for kernel, pad in (
        ((1, 2 * radius + 1), (0, radius)),
        ((2 * radius + 1, 1), (radius, 0)),
    ):
        alpha = F.max_pool2d(_padded(alpha, pad), kernel, stride=1)
    for kernel, pad in (
        ((1, 2 * radius + 1), (0, radius)),
        ((2 * radius + 1, 1), (radius, 0)),
    ):
        alpha = F.avg_pool2d(_padded(alpha, pad), kernel, stride=1)
    # Sums of ones may round to just below one, and a trace of the original would show.
    return torch.where(generate_BHW[:, None], 1.0, alpha.clamp(0, 1))


def _padded(x: Tensor, pad: tuple[int, int]) -> Tensor:
    return F.pad(x, (pad[1], pad[1], pad[0], pad[0]), mode="replicate")
