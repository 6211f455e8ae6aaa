"""What a generation or an edit gives back, and how it is written to files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from flexvar import images
from flexvar.errors import FlexvarError
from flexvar.generation.known import Known


@dataclass(frozen=True, slots=True)
class Result:
    """What a generation gave.

    images: Pillow images, or a (B,3,H,W) fp32 tensor in [0,1]. maps: the token maps per scale,
    (B,h,w) int64. settings: everything needed to make the images again. known: of an edit, the
    tokens that were given and which of them were kept.
    """

    images: Any
    maps: tuple[Tensor, ...]
    settings: dict[str, Any]
    known: Known | None = None

    def image_settings(self, index: int) -> dict[str, Any]:
        """The settings of one image: its own label or prompt, seed and index."""
        several = {"labels": "label", "prompts": "prompt", "negative": "negative"}
        keep = {k: v for k, v in self.settings.items() if k not in (*several, "seeds")}
        own = {}
        for name, one in several.items():
            if name in self.settings:
                values = self.settings[name]
                own[one] = values[index] if len(values) > 1 else values[0]
        seed, key = self.settings["seeds"][index]
        return {**keep, **own, "seed": seed, "index": key}

    def save(self, directory: str | Path, *, start: int = 0) -> list[Path]:
        """Write ``00000.png`` ... with their settings; return the paths."""
        directory = Path(directory)
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FlexvarError(f"Cannot write to {directory}: {error.strerror}.") from None
        paths = []
        for index, image in enumerate(self.images):
            if isinstance(image, Tensor):
                image = images.to_pil(image)
            paths.append(directory / f"{start + index:05d}.png")
            images.save_png(image, paths[-1], self.image_settings(index))
        return paths


def pictures(images_B3HW: Tensor, output: str) -> Any:
    """The tensor itself for "tensor", else a list of Pillow images."""
    return images_B3HW if output == "tensor" else [images.to_pil(one) for one in images_B3HW]
