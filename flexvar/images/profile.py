"""Color profiles: pictures in sRGB for the model, and back in the profile they came with."""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms

# A profile that moves no color by more than so many levels of 255 is sRGB under another name, and
# its pictures stay as they are, to the bit.
SAME = 2


def to_srgb(image: Image.Image) -> Image.Image:
    """A picture in sRGB by its own profile; as it is without one, or with one that is none.

    image: of the modes RGB, RGBA, L, LA and CMYK; others come back unchanged. Grey becomes RGB
    where its profile is another than sRGB's.
    """
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or not profile:
        return image
    alpha = image.getchannel("A") if image.mode in ("RGBA", "LA") else None
    mode = {"RGBA": "RGB", "LA": "L"}.get(image.mode, image.mode)
    transform = _transform(profile, mode, "in")
    if transform is None:
        return image
    plain = image if alpha is None else image.convert(mode)
    try:
        result = ImageCms.applyTransform(plain, transform)
    except (ImageCms.PyCMSError, ValueError):
        return image
    if result is None:
        return image
    if alpha is not None:
        result.putalpha(alpha)
    return result


def from_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """An RGB picture in sRGB as the same colors in another RGB profile, which it carries."""
    transform = _transform(profile, "RGB", "out")
    result = image if transform is None else ImageCms.applyTransform(image, transform)
    assert result is not None
    result.info["icc_profile"] = profile
    return result


def rgb_profile(image: Image.Image) -> bytes | None:
    """The profile of a picture, if it is one for RGB other than sRGB; else None."""
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or image.mode not in ("RGB", "RGBA", "P"):
        return None
    return profile if _transform(profile, "RGB", "in") is not None else None


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str, way: str) -> ImageCms.ImageCmsTransform | None:
    """What turns pixels of a mode into sRGB ("in"), or sRGB into them; None where nothing has to.

    None too for a profile that is broken, or one for another kind of picture.
    """
    try:
        own = ImageCms.ImageCmsProfile(BytesIO(profile))
        srgb = ImageCms.createProfile("sRGB")
        if way == "out":
            if _transform(profile, mode, "in") is None:
                return None
            return ImageCms.buildTransform(srgb, own, "RGB", mode)
        transform = ImageCms.buildTransform(own, srgb, mode, "RGB")
        if mode == "CMYK":
            return transform
        samples = _samples(mode)
        seen = ImageCms.applyTransform(samples, transform)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    if seen is None:
        return None
    plain = np.asarray(samples.convert("RGB"), dtype=np.int16)
    moved = np.abs(np.asarray(seen, dtype=np.int16) - plain).max()
    return transform if moved > SAME else None


def _samples(mode: str) -> Image.Image:
    """A picture of colors all over the cube, or of all grey levels."""
    if mode == "L":
        return Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), -1)
    return Image.fromarray(cube.reshape(27, 27, 3))
