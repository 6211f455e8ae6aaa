"""How a picture comes about: what it looks like after each scale, as a strip or an animation."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from flexvar import images
from flexvar.canvas import resize
from flexvar.errors import FlexvarError

if TYPE_CHECKING:
    from flexvar.pipeline import Pipeline

ANIMATIONS = (".webp", ".gif")


@dataclass(slots=True)
class Scales:
    """Collects the latent after each scale; to be given as ``on_scale``.

    ::

        scales = Scales()
        pipe("cat", seed=0, on_scale=scales)
        animate(scales.pictures(pipe)[0], "cat.webp")
    """

    latents: list[Tensor] = field(default_factory=list)

    def __call__(self, step: int, latent_BChw: Tensor, maps: tuple[Tensor, ...]) -> None:
        """Keep a latent; a first one begins anew."""
        if step == 0:
            self.latents = []
        self.latents.append(latent_BChw.detach().clone())

    def pictures(self, pipe: Pipeline) -> list[list[Image.Image]]:
        """Of each image, its picture after each scale, all at the size of the last one.

        A latent of few cells is decoded at its own size and enlarged bicubically.
        """
        if not self.latents:
            raise FlexvarError("There are no scales: give this object as on_scale to a call first.")
        stride = pipe.tokenizer.space.stride
        size = self.latents[-1].shape[-2] * stride, self.latents[-1].shape[-1] * stride
        rows = torch.stack([resize(pipe.decode(latent), size).cpu() for latent in self.latents])
        return [[images.to_pil(one) for one in row] for row in rows.unbind(1)]


def strip(pictures: Sequence[Image.Image], gap: int = 2) -> Image.Image:
    """Pictures of one size side by side, on white."""
    if not pictures:
        raise FlexvarError("There is no picture to put on a strip.")
    width, height = pictures[0].size
    result = Image.new("RGB", (len(pictures) * (width + gap) - gap, height), "white")
    for number, picture in enumerate(pictures):
        result.paste(picture, (number * (width + gap), 0))
    return result


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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    options = {"lossless": True} if path.suffix.lower() == ".webp" else {}
    try:
        pictures[0].save(
            temporary,
            format=path.suffix[1:].upper(),
            save_all=True,
            append_images=list(pictures[1:]),
            duration=times,
            loop=0,
            **options,
        )
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise FlexvarError(f"Cannot write {path}: {error.strerror or error}.") from None
    return path
