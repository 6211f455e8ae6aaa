"""Image folders: ROOT/CLASS/*, ROOT/train/CLASS/* and ROOT/val/CLASS/*, or ROOT/*.

Captions stand beside the pictures, see `flexvar.data.captions`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from flexvar.data.captions import FolderCaptions
from flexvar.data.config import DataConfig, Split
from flexvar.data.listing import add_titles, list_folder
from flexvar.data.names import read_class_names
from flexvar.data.sources import Defaults, choose_classes, no_validation, order_of
from flexvar.errors import FlexvarError
from flexvar.images import open_image
from flexvar.text import printable

USUAL_VAL_FRACTION = 0.1


def split_off(paths: list[str], fraction: float) -> tuple[list[str], list[str]]:
    """(training, validation) pictures of a class, both in order.

    Which are held out follows from their names alone; of two or more at least one is, and at
    least one is not.
    """
    count = round(fraction * len(paths))
    if fraction > 0:
        count = max(0, min(max(count, 1), len(paths) - 1))
    held = set(sorted(paths, key=order_of)[:count])
    return [p for p in paths if p not in held], [p for p in paths if p in held]


class Folder:
    """The source of an image folder; ``classes.txt`` there may name the class folders.

    check: False lets classes without pictures pass. notes: what is left out, and why.
    """

    defaults = Defaults()

    def __init__(self, config: DataConfig, *, check: bool = True) -> None:
        self.config = config
        self.listing = list_folder(Path(config.source).expanduser().absolute())
        self.notes = self.listing.notes
        names = self.listing.root / "classes.txt"
        if names.is_file():
            add_titles(self.listing, read_class_names(names))
        titles = self.listing.titles
        # Names of folders may be no text; classes are called as they can be shown.
        folders = {printable(titles.get(folder, folder)): folder for folder in self.listing.train}
        self.class_names = choose_classes(list(folders), config.classes)
        self.folders = [folders[name] for name in self.class_names]
        if check:
            self._check()

    def pictures(self, split: Split) -> FilePictures:
        """The pictures of a split. Raises `FlexvarError` for a val split without any."""
        listing, chosen = self.listing, self.folders
        parts: dict[str, list[str]] = {}
        fraction = self.config.val_fraction
        fraction = USUAL_VAL_FRACTION if fraction is None else fraction
        for name in chosen:
            if listing.val is None:
                train, val = split_off(listing.train[name], fraction)
                parts[name] = train if split == "train" else val
            else:
                part = listing.train if split == "train" else listing.val
                parts[name] = part.get(name, [])
        paths = [path for name in chosen for path in parts[name]]
        labels = [label for label, name in enumerate(chosen) for _ in parts[name]]
        if split == "val" and not paths:
            if listing.val is not None:
                raise no_validation(self.config, "its validation folder is empty")
            why = "val_fraction is 0" if fraction == 0 else "no class has two pictures"
            raise no_validation(self.config, why)
        return FilePictures(listing.root, paths, labels)

    def _check(self) -> None:
        listing = self.listing
        for name in self.folders:
            if not listing.train[name]:
                raise FlexvarError(
                    f"The class folder {name!r} in {listing.root} holds no picture; put some "
                    "there, remove it, or leave it out with the option classes."
                )
        unknown = sorted(set(listing.val or ()) - set(listing.train))
        if unknown:
            raise FlexvarError(
                f"{listing.root}: the validation folder has the class {unknown[0]!r}, which the "
                f"training folder has not. Classes: {', '.join(listing.train)}."
            )
        val = listing.val
        absent = [] if val is None else [name for name in self.folders if not val.get(name)]
        if absent and len(absent) < len(self.folders):
            warnings.warn(
                f"The validation folder of {listing.root} holds no picture of "
                f"{', '.join(absent[:5])}{', ...' if len(absent) > 5 else ''}: validation says "
                "nothing about such classes.",
                stacklevel=4,
            )
        if listing.strays:
            warnings.warn(
                f"{len(listing.strays)} pictures lie beside the class folders of {listing.root} "
                f"and are left out, for example {listing.strays[0]}.",
                stacklevel=4,
            )


class FilePictures:
    """Pictures in files."""

    repeats = 1

    def __init__(
        self,
        root: Path,
        paths: list[str],
        labels: list[int],
        captions: Mapping[str, tuple[str, ...]] | None = None,
    ) -> None:
        self.root, self.paths, self.labels = root, paths, labels
        self._captions = FolderCaptions(root, paths, captions)

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """The path of a picture."""
        return str(self.root / self.paths[index])

    def label(self, index: int) -> int:
        """The class number of a picture."""
        return self.labels[index]

    def captions(self, index: int) -> tuple[str, ...]:
        """What stands beside a picture, in ``x.txt`` or ``captions.jsonl``."""
        return self._captions.of(self.paths[index])

    def open(self, index: int, enough: tuple[int, int]) -> Image.Image:
        """The picture, upright in RGB; a large JPEG is decoded at a fraction of its size."""
        return open_image(self.root / self.paths[index], enough=enough)

    def state(self) -> str:
        """Name, class, size in bytes and time of change of every file."""
        lines = []
        for path, label in zip(self.paths, self.labels, strict=True):
            info = (self.root / path).stat()
            captions = self._captions.state(path)
            lines.append(f"{path} {label} {info.st_size} {info.st_mtime_ns}{captions}")
        return "\n".join(lines)
