"""A balanced set of samples in a folder: what it should hold, what is missing, what is wrong."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flexvar import images
from flexvar.errors import FlexvarError
from flexvar.files import read_json, whole_file, write_json

FOLDER, RUN = "images", "run.json"


@dataclass(frozen=True)
class SampleSet:
    """The first ``num`` samples of every class of one model, seed and way to sample.

    Image i is of class i mod num_classes and has the key (seed, i), so that a larger ``num`` only
    adds images. directory: holds ``images/000000.png`` ... and ``run.json``, the settings that
    all of them share; each PNG carries those with its own label and index.
    """

    directory: Path
    num: int
    labels: tuple[Any, ...]
    settings: dict[str, Any]

    def __len__(self) -> int:
        return self.num * len(self.labels)

    def path(self, index: int) -> Path:
        """Where image i is or will be."""
        return self.directory / FOLDER / f"{index:06d}.png"

    def class_of(self, index: int) -> int:
        """The class number of image i."""
        return index % len(self.labels)

    def image_settings(self, index: int) -> dict[str, Any]:
        """What the PNG of image i carries."""
        return {**self.settings, "label": self.labels[self.class_of(index)], "index": index}

    @property
    def labels_N(self) -> Tensor:
        """Class numbers (N,) int64."""
        return torch.arange(len(self)) % len(self.labels)

    def claim(self) -> None:
        """Write the settings into the directory, or check those that stand there.

        Raises `FlexvarError` for a directory of other settings, or that cannot be written.
        """
        path = self.directory / RUN
        found = read_json(path)
        if found is None:
            write_json(path, self.settings)
        elif found != json.loads(json.dumps(self.settings)):
            raise _other_settings(path, found, self.settings)
        try:
            (self.directory / FOLDER).mkdir(exist_ok=True)
        except OSError as error:
            raise FlexvarError(
                f"Cannot write to {self.directory}: {error.strerror or error}."
            ) from None

    def missing(self) -> list[int]:
        """Images that are not there or not whole.

        Raises `FlexvarError` for one made with other settings, and for one that is too many.
        """
        found = set((self.directory / FOLDER).glob("*.png"))
        paths = [self.path(index) for index in range(len(self))]
        extra = sorted(found - set(paths))
        if extra:
            raise FlexvarError(
                f"{self.directory / FOLDER} holds {len(extra)} pictures besides the {len(self)} "
                f"asked for, such as {extra[0].name}; ask for more per class, remove them, or "
                "name another directory."
            )
        return [i for i, path in enumerate(paths) if path not in found or not self._whole(i)]

    def _whole(self, index: int) -> bool:
        path, wanted = self.path(index), self.image_settings(index)
        try:
            with Image.open(path) as image:
                image.load()
                found = json.loads(image.info.get(images.SETTINGS_KEY, "{}"))
        except (OSError, SyntaxError, ValueError):
            return False
        if found != json.loads(json.dumps(wanted)):
            raise _other_settings(path, found, wanted)
        return True

    def pixels(self, index: int) -> np.ndarray[tuple[int, int, int], np.dtype[np.uint8]]:
        """Image i as (H,W,3) uint8."""
        with Image.open(self.path(index)) as image:
            return np.asarray(image.convert("RGB"))

    def batches(self, size: int = 32) -> Iterator[Tensor]:
        """All images in order, (B,3,H,W) uint8."""
        for start in range(0, len(self), size):
            part = [self.pixels(i) for i in range(start, min(start + size, len(self)))]
            yield torch.from_numpy(np.stack(part)).permute(0, 3, 1, 2)

    def check(self) -> dict[str, Any]:
        """Classes per image as they stand in the files, and images whose pixels are the same.

        Returns ``{"samples", "per_class", "identical", "identical_groups", "digest"}``: identical
        counts images that repeat an earlier one; digest is of all pixels in order.
        Raises `FlexvarError` if a class has not exactly ``num``, or an index stands twice.
        """
        labels: Counter[Any] = Counter()
        indices: Counter[int] = Counter()
        by_pixels: dict[str, list[int]] = {}
        whole = hashlib.sha256()
        for index in range(len(self)):
            with Image.open(self.path(index)) as image:
                stored = json.loads(image.info[images.SETTINGS_KEY])
                digest = hashlib.sha256(image.convert("RGB").tobytes()).hexdigest()
            labels[stored["label"]] += 1
            indices[stored["index"]] += 1
            by_pixels.setdefault(digest, []).append(index)
            whole.update(digest.encode())
        wrong = {label: labels[label] for label in self.labels if labels[label] != self.num}
        twice = [index for index, count in indices.items() if count > 1]
        if wrong or twice:
            raise FlexvarError(
                f"{self.directory / FOLDER} is no balanced set: expected {self.num} images per "
                f"class, found {wrong or labels}; indices twice: {twice[:5]}. Remove the folder "
                "and run again."
            )
        groups = [group for group in by_pixels.values() if len(group) > 1]
        return {
            "samples": len(self),
            "per_class": self.num,
            "identical": sum(len(group) - 1 for group in groups),
            "identical_groups": groups[:20],
            "digest": whole.hexdigest(),
        }

    def write_npz(self, path: Path) -> None:
        """All images as ``arr_0``, uint8 (N,H,W,3), for the evaluator of guided-diffusion.

        Written picture by picture: 50,000 of 256 px are 10 GB. Raises `FlexvarError` where it
        cannot be written.
        """
        height, width = self.settings["size"]
        header = {
            "descr": "|u1",
            "fortran_order": False,
            "shape": (len(self), height, width, 3),
        }
        with (
            whole_file(path) as temporary,
            zipfile.ZipFile(temporary, "w") as archive,
            archive.open("arr_0.npy", "w", force_zip64=True) as file,
        ):
            np.lib.format.write_array_header_1_0(file, header)
            for index in range(len(self)):
                file.write(self.pixels(index).tobytes())


def _other_settings(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> FlexvarError:
    differing = [
        f"{name} {found.get(name)!r} there, {wanted.get(name)!r} asked for"
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != json.loads(json.dumps(wanted.get(name)))
    ]
    return FlexvarError(
        f"{path} was made with other settings ({'; '.join(differing)}). Name another directory, "
        "or ask for the same."
    )
