"""What the playground is asked for, checked before anything is made."""

from __future__ import annotations

import base64
import binascii
import io
import math
import warnings
from typing import Any, Literal

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from flexvar import images
from flexvar.errors import FlexvarError

# Longest side and number of pixels of a picture that is made or taken, and pictures of a request.
MOST_SIDE, MOST_PIXELS, MOST_IMAGES = 2048, 1024 * 1024, 8
# Bytes of a request's body, and of an uploaded file.
MOST_BYTES = 12 * 2**20
MOST_TEXT = 2000
MOST_STEPS = 64


class Request(BaseModel):
    """Base of all requests: an unknown key is an error, and text is no number."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class From(Request):
    """A picture made before, and the last scale of it that is kept, counted from 0."""

    picture: str = Field(max_length=64)
    scale: int = Field(ge=0, le=MOST_STEPS)


class Making(Request):
    """What every request that makes pictures has.

    value: class number or name, or a prompt; None is neither. options: of the model's sampler.
    """

    model: str = Field(max_length=200)
    value: int | str | None = None
    negative: str | None = Field(default=None, max_length=MOST_TEXT)
    steps: int | None = Field(default=None, ge=1, le=MOST_STEPS)
    seed: int | None = Field(default=None, ge=0, lt=2**53)
    num: int = Field(default=1, ge=1, le=MOST_IMAGES)
    options: dict[str, Any] = Field(default_factory=dict, max_length=32)
    previews: bool = True


class Generate(Making):
    """Pictures of a class or prompt. size: (height, width) in pixels."""

    size: tuple[int, int] | None = None
    start: From | None = None


class Edit(Making):
    """An edit of a picture. image, mask: files in base64; margins: top, right, bottom, left."""

    task: Literal["inpaint", "outpaint", "refine", "edit"]
    image: str = Field(max_length=MOST_BYTES)
    mask: str | None = Field(default=None, max_length=MOST_BYTES)
    box: tuple[int, int, int, int] | None = None
    margins: tuple[int, int, int, int] | None = None
    size: tuple[int, int] | None = None


class Score(Request):
    """What a model thinks of a picture, under some of its classes or prompts."""

    model: str = Field(max_length=200)
    image: str = Field(max_length=MOST_BYTES)
    values: list[int | str] = Field(default_factory=list, max_length=64)


def check_size(size: tuple[int, int] | None) -> None:
    """Raise `FlexvarError` for a size beyond what this server makes."""
    if size is None:
        return
    if min(size) < 1 or max(size) > MOST_SIDE or math.prod(size) > MOST_PIXELS:
        raise FlexvarError(
            f"size: {size[0]}x{size[1]} is more than this server makes; at most {MOST_SIDE} a "
            f"side and {MOST_PIXELS:,} pixels."
        )


def picture(text: str, what: str = "image") -> Image.Image:
    """The picture of a base64 text, or of a data URI.

    Raises `FlexvarError` for what is none, and for one that is too large, before it is decoded.
    """
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise FlexvarError(f"{what}: no base64 text.") from None
    return picture_of(data, what)


def picture_of(data: bytes, what: str = "image") -> Image.Image:
    """The picture in a file's bytes, with its transparency; bounded as in `picture`."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP", "GIF"))
            size = found.size
    except Exception:
        raise FlexvarError(f"{what}: not a PNG, JPEG, WebP or GIF picture.") from None
    if max(size) > MOST_SIDE or math.prod(size) > 4 * MOST_PIXELS:
        raise FlexvarError(
            f"{what}: {size[1]}x{size[0]} pixels are more than this server takes; at most "
            f"{MOST_SIDE} a side."
        )
    try:
        found.load()
    except Exception as error:
        raise FlexvarError(f"{what}: the picture is broken ({error}).") from None
    return found if what == "mask" else images.to_rgb(found)
