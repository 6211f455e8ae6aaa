"""How a picture comes about: what it looks like after each scale."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from flexvar import images
from flexvar.editing.canvas import resize
from flexvar.errors import FlexvarError

if TYPE_CHECKING:
    from flexvar.session import Session


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

    def pictures(self, pipe: Session) -> list[list[Image.Image]]:
        """Of each image, its picture after each scale, all at the size of the last one.

        A latent of few cells is decoded at its own size and enlarged bicubically.
        """
        if not self.latents:
            raise FlexvarError("There are no scales: give this object as on_scale to a call first.")
        stride = pipe.tokenizer.space.stride
        size = self.latents[-1].shape[-2] * stride, self.latents[-1].shape[-1] * stride
        rows = torch.stack([resize(pipe.decode(latent), size).cpu() for latent in self.latents])
        return [[images.to_pil(one) for one in row] for row in rows.unbind(1)]
