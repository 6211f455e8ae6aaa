"""Pictures -> samples of one size: resize, crop, mirror, with Pillow alone.

Sizes are (height, width) in pixels, as everywhere in flexvar; only Pillow's own calls take
(width, height).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from flexvar.data.colors import HUES, recolored

LANCZOS = Image.Resampling.LANCZOS
# Where a picture shrinks by more than that, whole pixels are averaged first: a third faster on the
# built-in photographs at 64 px, and 54 dB away from the filter alone.
REDUCING_GAP = 2.0
# Of a longer picture only the middle is used: a strip of 1x5000 pixels would otherwise be resized
# to gigabytes.
MOST_ELONGATED = 8


@dataclass(frozen=True, slots=True)
class Rule:
    """How a picture becomes a sample of ``size``; see `flexvar.data.DataConfig`.

    crop: "random", "resized", or "middle" for validation. recolor: odds of another colour.
    """

    size: tuple[int, int]
    crop: Literal["random", "resized", "middle"]
    resize: float
    crop_range: tuple[float, float]
    flip: bool
    recolor: float = 0.0

    @property
    def enough(self) -> tuple[int, int]:
        """The size from which on more pixels make no difference to a sample."""
        share = 1 / self.crop_range[0] if self.crop == "resized" else self.resize
        return round(2 * share * self.size[0]), round(2 * share * self.size[1])

    def prepare(self, image: Image.Image) -> Image.Image:
        """What all samples of a picture have in common, so that it can be kept.

        For "random" and "middle" the picture resized so that it just covers ``resize`` x size,
        with Lanczos, as VAR does (mid_reso 1.125). For "resized" the picture, made smaller
        where it is larger than needed.
        """
        image = _without_ends(image)
        if self.crop == "resized":
            return cover(image, self.enough) if _covers(image, self.enough) else image
        height, width = self.size
        return cover(image, (round(self.resize * height), round(self.resize * width)))

    def cut(self, prepared: Image.Image, random: np.random.Generator | None) -> Image.Image:
        """A sample of exactly ``size`` from a prepared picture; ``random`` None for the middle."""
        mirror, share, down, right = (0.0, 0.0, 0.5, 0.5) if random is None else random.random(4)
        height, width = self.size
        if self.crop == "resized":
            box = _box(prepared, self.size, self.crop_range, share, down, right)
            image = prepared.resize((width, height), LANCZOS, box=box, reducing_gap=REDUCING_GAP)
        else:
            # +1: each of the offsets, the last one too, is as likely.
            spare_y, spare_x = prepared.height - height, prepared.width - width
            top = min(int(down * (spare_y + 1)), spare_y)
            left = min(int(right * (spare_x + 1)), spare_x)
            image = prepared.crop((left, top, left + width, top + height))
        if self.flip and mirror >= 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        # Drawn last, so that the crops of a run without it stay as they are.
        if self.recolor and random is not None:
            odds, which = random.random(2)
            if odds < self.recolor:
                image = recolored(image, list(HUES)[int(which * len(HUES))])
        return image


def cover(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The picture in its own proportions, as small as covers ``size``."""
    height, width = size
    scale = max(height / image.height, width / image.width)
    new = (max(width, int(image.width * scale)), max(height, int(image.height * scale)))
    return image if new == image.size else image.resize(new, LANCZOS, reducing_gap=REDUCING_GAP)


def largest_box(size: tuple[int, int], shape: tuple[int, int]) -> tuple[float, float]:
    """(height, width) of the largest box with the proportions of ``shape`` inside ``size``."""
    scale = min(size[0] / shape[0], size[1] / shape[1])
    return shape[0] * scale, shape[1] * scale


def _covers(image: Image.Image, size: tuple[int, int]) -> bool:
    return image.height > size[0] and image.width > size[1]


def _box(
    image: Image.Image,
    size: tuple[int, int],
    shares: tuple[float, float],
    share: float,
    down: float,
    right: float,
) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of a box in the proportions of ``size``, anywhere inside."""
    least, most = shares
    scale = least + share * (most - least)
    full = largest_box((image.height, image.width), size)
    height, width = full[0] * scale, full[1] * scale
    top, left = down * (image.height - height), right * (image.width - width)
    # Rounding must not lead outside, which Pillow refuses.
    return left, top, min(left + width, image.width), min(top + height, image.height)


def _without_ends(image: Image.Image) -> Image.Image:
    height, width = image.height, image.width
    if max(height, width) <= MOST_ELONGATED * min(height, width):
        return image
    height, width = min(height, MOST_ELONGATED * width), min(width, MOST_ELONGATED * height)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))
