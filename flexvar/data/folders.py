"""Image folders: ROOT/CLASS/*, ROOT/train/CLASS/* and ROOT/val/CLASS/*, or ROOT/*."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from flexvar.data.config import DataConfig, Split
from flexvar.data.sources import Defaults, choose_classes, no_validation, order_of
from flexvar.errors import FlexvarError
from flexvar.images import open_image

SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("jpg", "jpeg", "jpe", "jfif", "jp2", "png", "webp", "avif", "gif", "bmp", "tif", "tiff"),
        *("tga", "ppm", "pgm", "pbm", "pnm"),
    )
)
VALIDATION = ("val", "valid", "validation")
USUAL_VAL_FRACTION = 0.1


@dataclass(slots=True)
class Listing:
    """What lies in a folder: picture paths per class, as text, relative to ``root``.

    val: the same for the folder's own validation split, None without one. strays: pictures
    beside the class folders. left_out: number of files per suffix that are no pictures.
    """

    root: Path
    train: dict[str, list[str]] = field(default_factory=dict)
    val: dict[str, list[str]] | None = None
    strays: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def list_folder(root: Path) -> Listing:
    """The classes and pictures of a folder; classes of digits alone sort as numbers.

    Raises `FlexvarError` if there is no picture at all, or a folder cannot be listed.
    """
    listing = Listing(root)
    folders = [entry.name for entry in _entries(root) if entry.is_dir()]
    # A class may be called "train": it is a split only if nothing but splits stands beside it.
    if "train" in folders and set(folders) <= {"train", "test", *VALIDATION}:
        listing.train = _classes(listing, root / "train")
        for name in VALIDATION:
            if name in folders:
                listing.val = _classes(listing, root / name)
                break
    else:
        listing.train = _classes(listing, root)
    if not any(listing.train.values()):
        raise FlexvarError(
            f"{root} holds no picture. Expected {root}/CLASS/*.jpg, {root}/train/CLASS/*.jpg, or "
            f"pictures side by side; these count as pictures: {' '.join(sorted(SUFFIXES))}."
        )
    return listing


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
    """The source of an image folder; ``check=False`` lets classes without pictures pass."""

    defaults = Defaults()

    def __init__(self, config: DataConfig, *, check: bool = True) -> None:
        self.config = config
        self.listing = list_folder(Path(config.source).expanduser().absolute())
        self.class_names = choose_classes(list(self.listing.train), config.classes)
        if check:
            self._check()

    def pictures(self, split: Split) -> FilePictures:
        """The pictures of a split. Raises `FlexvarError` for a val split without any."""
        listing, chosen = self.listing, self.class_names
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
        for name in self.class_names:
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
        absent = [] if val is None else [name for name in self.class_names if not val.get(name)]
        if absent and len(absent) < len(self.class_names):
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

    def __init__(self, root: Path, paths: list[str], labels: list[int]) -> None:
        self.root, self.paths, self.labels = root, paths, labels

    def __len__(self) -> int:
        return len(self.paths)

    def name(self, index: int) -> str:
        """The path of a picture."""
        return str(self.root / self.paths[index])

    def label(self, index: int) -> int:
        """The class number of a picture."""
        return self.labels[index]

    def open(self, index: int, enough: tuple[int, int]) -> Image.Image:
        """The picture, upright in RGB; a large JPEG is decoded at a fraction of its size."""
        return open_image(self.root / self.paths[index], enough=enough)

    def state(self) -> str:
        """Name, class, size in bytes and time of change of every file."""
        lines = []
        for path, label in zip(self.paths, self.labels, strict=True):
            info = (self.root / path).stat()
            lines.append(f"{path} {label} {info.st_size} {info.st_mtime_ns}")
        return "\n".join(lines)


def _classes(listing: Listing, folder: Path) -> dict[str, list[str]]:
    """Pictures per class folder in ``folder``; without any, those in it as one class."""
    entries = _entries(folder)
    names = [entry.name for entry in entries if entry.is_dir()]
    flat: list[str] = []
    for entry in entries:
        if entry.is_file():
            _sort_in(listing, folder / entry.name, flat)
    if names and all(name.isdecimal() for name in names):
        names.sort(key=int)
    classes = {name: _pictures(listing, folder / name) for name in names}
    if flat and not any(classes.values()):
        return {listing.root.name or "pictures": flat}
    listing.strays += flat
    return classes


def _pictures(listing: Listing, folder: Path) -> list[str]:
    """All pictures below a class folder, in order."""
    found: list[str] = []
    for parent, folders, files in os.walk(folder, onerror=_refused):
        folders[:] = sorted(name for name in folders if not _hidden(name))
        for name in sorted(files):
            if not _hidden(name):
                _sort_in(listing, Path(parent) / name, found)
    return found


def _sort_in(listing: Listing, path: Path, pictures: list[str]) -> None:
    if path.suffix.lower() in SUFFIXES:
        pictures.append(str(path.relative_to(listing.root)))
    else:
        listing.left_out[path.suffix.lower() or path.name] += 1


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        entries = [entry for entry in os.scandir(folder) if not _hidden(entry.name)]
    except OSError as error:
        _refused(error)
    return sorted(entries, key=lambda entry: entry.name)


def _hidden(name: str) -> bool:
    # ._x.jpg and __MACOSX are what archives from a Mac leave behind: no pictures.
    return name.startswith((".", "__"))


def _refused(error: OSError) -> None:
    raise FlexvarError(f"Cannot list {error.filename}: {error.strerror or error}.") from None
