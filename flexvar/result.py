"""What a generation or an edit gives back, and how it is written to files."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from flexvar import images
from flexvar.errors import FlexvarError
from flexvar.generation.known import Known


@dataclass(frozen=True, slots=True, repr=False)
class Result:
    """What a generation gave.

    images: Pillow images, or a (B,3,H,W) fp32 tensor in [0,1]. maps: the token maps per scale,
    (B,h,w) int64. settings: everything needed to make the images again. known: of an edit, the
    tokens that were given and which of them were kept. origin: the checkpoint's name and weights,
    see `flexvar.session.Session.origin`.
    """

    images: Any
    maps: tuple[Tensor, ...]
    settings: dict[str, Any]
    known: Known | None = None
    origin: dict[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        height, width = self.settings["size"]
        of = self.settings.get("labels") or self.settings.get("prompts") or []
        grids = " ".join("x".join(map(str, grid)) for grid in self.settings["steps"])
        return (
            f"Result({len(self.images)} of {height}x{width} px: {', '.join(map(str, of[:4]))}"
            f"{', ...' if len(of) > 4 else ''}; grids {grids}; seeds {self.settings['seeds'][:4]})"
        )

    def image_settings(self, index: int) -> dict[str, Any]:
        """The settings of one image: its own label or prompt, seed, index, and the origin."""
        several = {"labels": "label", "prompts": "prompt", "negative": "negative"}
        keep = {k: v for k, v in self.settings.items() if k not in (*several, "seeds")}
        own = {}
        for name, one in several.items():
            if name in self.settings:
                values = self.settings[name]
                own[one] = values[index] if len(values) > 1 else values[0]
        seed, key = self.settings["seeds"][index]
        return {**self.origin, **keep, **own, "seed": seed, "index": key}

    def save(
        self, directory: str | Path, *, start: int | None = None, mark: bool = True
    ) -> list[Path]:
        """Write ``00000.png`` ... with their settings; return the paths.

        start: number of the first file; unless given, numbers go on after those that are there, so
        that nothing is overwritten. mark: say in the files' XMP that they are generated, see
        `flexvar.images.encode_png`.
        """
        directory = Path(directory)
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FlexvarError(f"Cannot write to {directory}: {error.strerror}.") from None
        start = next_number(directory) if start is None else start
        paths = []
        for index, image in enumerate(self.images):
            if isinstance(image, Tensor):
                image = images.to_pil(image)
            paths.append(directory / f"{start + index:05d}.png")
            images.save_png(image, paths[-1], self.image_settings(index), mark=mark)
        return paths


def next_number(directory: str | Path) -> int:
    """The first number after those of the pictures ``00000.png`` ... in a directory; 0 if none."""
    directory = Path(directory)
    names = [path.name for path in directory.iterdir()] if directory.is_dir() else []
    found = [re.match(r"(?:grid-)?([0-9]{5,9})[.-]", name) for name in names]
    return 1 + max((int(match[1]) for match in found if match), default=-1)


def pictures(images_B3HW: Tensor, output: str) -> Any:
    """The tensor itself for "tensor", else a list of Pillow images."""
    return images_B3HW if output == "tensor" else images.to_pils(images_B3HW)
