"""Colours by name: which one rules a picture, and the same picture in another one.

Colours are compared and turned in OKLCH (Björn Ottosson, "A perceptual color space for image
processing", 2020), where lightness, chroma and hue can be changed one by one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

Array = np.ndarray[Any, np.dtype[np.float32]]

# Hue in degrees and lightness in [0,1] of what people call by the name.
HUES: dict[str, tuple[float, float]] = {
    "red": (27.0, 0.58),
    "orange": (55.0, 0.72),
    "yellow": (92.0, 0.85),
    "green": (145.0, 0.66),
    "blue": (257.0, 0.58),
    "purple": (303.0, 0.52),
    "pink": (350.0, 0.74),
}
# From which hue on, in degrees, a picture is called so; drawings of a colour lean to the warm side
# of it where the light falls.
NAMED_FROM = (
    ("red", 8.0),
    ("orange", 30.0),
    ("yellow", 68.0),
    ("green", 112.0),
    ("blue", 200.0),
    ("purple", 280.0),
    ("pink", 327.0),
)
# A pixel has a colour from about here on; in between it takes a part of the turn.
GRAY_BELOW, CHROMATIC_FROM = 0.035, 0.075
# A hue rules the pixels that are nearer to it than NEAR degrees; beyond FAR nothing is turned.
NEAR, FAR = 45.0, 80.0
# Least share of colourful pixels of which a hue has to rule, and of all pixels that are colourful.
RULING, COLORFUL = 0.6, 0.12
# How much of the difference in lightness is made up for: all of it would flatten the shading.
LIGHTNESS_SHARE = 0.6

_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ],
    dtype=np.float32,
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ],
    dtype=np.float32,
)
_FROM_LAB = np.linalg.inv(_TO_LAB.astype(np.float64)).astype(np.float32)
_FROM_LMS = np.linalg.inv(_TO_LMS.astype(np.float64)).astype(np.float32)


def ruling_hue(image: Image.Image) -> tuple[float, float] | None:
    """(hue in degrees, lightness) of the colour that rules an RGB picture; None if none does."""
    lightness, chroma, hue = _lch(image)
    weight = _rise(chroma, GRAY_BELOW, CHROMATIC_FROM)
    if weight.mean() < COLORFUL:
        return None
    # The middle of the 30 degrees that weigh most, then the mean of what lies near it.
    counts, _ = np.histogram(hue, bins=72, range=(0, 360), weights=weight)
    windows = sum(np.roll(counts, shift) for shift in range(-3, 4))
    center = 5.0 * int(np.argmax(windows)) + 2.5
    near = weight * (_distance(hue, center) < NEAR)
    if near.sum() < RULING * weight.sum():
        return None
    turned = np.radians(hue - center)
    mean = np.degrees(np.arctan2((near * np.sin(turned)).sum(), (near * np.cos(turned)).sum()))
    return float((center + mean) % 360), float((near * lightness).sum() / near.sum())


def color_name(image: Image.Image) -> str | None:
    """The name of the colour that rules a picture, one of `HUES`; None if none does."""
    ruling = ruling_hue(image)
    if ruling is None:
        return None
    below = [name for name, first in NAMED_FROM if first <= ruling[0]]
    return below[-1] if below else NAMED_FROM[-1][0]


def recolored(image: Image.Image, color: str) -> Image.Image:
    """The RGB picture with its ruling colour turned into another one of `HUES`.

    Gray pixels and those of quite other hues stay, shading stays; a picture without a ruling
    colour comes back as it is.
    """
    ruling = ruling_hue(image)
    return image if ruling is None else _turned(image, ruling, *HUES[color])


def _turned(
    image: Image.Image, ruling: tuple[float, float], target: float, light: float
) -> Image.Image:
    lightness, chroma, hue = _lch(image)
    far = 1 - _rise(_distance(hue, ruling[0]), NEAR, FAR)
    share = far * _rise(chroma, GRAY_BELOW, CHROMATIC_FROM)
    turn = (target - ruling[0] + 180) % 360 - 180
    hue = np.radians(hue + far * turn)
    # No shift at black and white, the whole of it in the middle.
    shift = LIGHTNESS_SHARE * (light - ruling[1])
    lightness = lightness + share * shift * (4 * lightness * (1 - lightness)).clip(0, 1)
    lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1)
    linear = ((lab @ _FROM_LAB.T) ** 3) @ _FROM_LMS.T
    linear = linear.clip(0, 1)
    srgb = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    pixels = (srgb * 255).round().astype(np.uint8)
    changed = (far > 0)[..., None] & (chroma > GRAY_BELOW)[..., None]
    return Image.fromarray(np.where(changed, pixels, np.asarray(image)))


def _lch(image: Image.Image) -> tuple[Array, Array, Array]:
    """Lightness in [0,1], chroma, and hue in degrees of every pixel."""
    srgb = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    lab = np.cbrt(linear @ _TO_LMS.T) @ _TO_LAB.T
    a, b = lab[..., 1], lab[..., 2]
    return lab[..., 0], np.hypot(a, b), np.degrees(np.arctan2(b, a)) % 360


def _distance(hue: Any, other: float) -> Any:
    return np.abs((hue - other + 180) % 360 - 180)


def _rise(values: Array, low: float, high: float) -> Array:
    """0 below low, 1 above high, smooth in between."""
    x = ((values - low) / (high - low)).clip(0, 1)
    return x * x * (3 - 2 * x)
