"""What lies in a folder of pictures: classes, splits, and all that is left out."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from flexvar.data.notes import Notes
from flexvar.errors import FlexvarError
from flexvar.text import printable

SUFFIXES = frozenset(
    f".{suffix}"
    for suffix in (
        *("jpg", "jpeg", "jpe", "jfif", "jp2", "png", "webp", "avif", "gif", "bmp", "tif", "tiff"),
        *("tga", "ppm", "pgm", "pbm", "pnm"),
    )
)
TRAINING = ("train", "training")
VALIDATION = ("val", "valid", "validation")
OTHERS = ("test", "testing")
# What file managers, archives and network drives leave behind.
LITTER = frozenset(
    ("__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information", "lost+found")
)
LEFT_BEHIND = "files and folders that other programs leave behind: left out"
# A folder as deep holds itself.
MOST_DEPTH = 64


@dataclass(slots=True)
class Listing:
    """What lies in a folder: picture paths per class folder, as text, relative to ``root``.

    val: the same for the folder's own validation split, None without one. strays: pictures
    beside the class folders. left_out: number of files per suffix that are no pictures. notes:
    what else is left out. titles: class folder -> class name, where a classes.txt gives some.
    """

    root: Path
    train: dict[str, list[str]] = field(default_factory=dict)
    val: dict[str, list[str]] | None = None
    strays: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    notes: Notes = field(default_factory=Notes)
    titles: dict[str, str] = field(default_factory=dict)


def list_folder(root: Path) -> Listing:
    """The classes and pictures of a folder; classes of digits alone sort as numbers.

    Raises `FlexvarError` if there is no picture at all, or a folder cannot be listed.
    """
    listing = Listing(root)
    folders = [entry.name for entry in _entries(listing, root) if entry.is_dir()]
    train, val = _splits(listing, folders)
    if train is not None:
        listing.train = _classes(listing, root / train)
        if val is not None:
            listing.val = _classes(listing, root / val)
    else:
        listing.train = _classes(listing, root)
    if not any(listing.train.values()):
        notes = "".join(f" {line}." for line in listing.notes.lines()[:5])
        raise FlexvarError(
            f"{root} holds no picture. Expected {root}/CLASS/*.jpg, {root}/train/CLASS/*.jpg, or "
            f"pictures side by side; these count as pictures: {' '.join(sorted(SUFFIXES))}.{notes}"
        )
    return listing


def _splits(listing: Listing, folders: list[str]) -> tuple[str | None, str | None]:
    """The names of the training and the validation folder; None where there is none."""
    # A class may be called "train": it is a split if nothing but splits stands beside it, or if
    # another split beside it holds classes of the same names.
    train = _first(folders, TRAINING)
    if train is None:
        named = [name for name in folders if name.lower() in (*VALIDATION, *OTHERS)]
        listing.notes.add(
            "folders called like a split, without a train folder: taken as classes",
            ", ".join(named),
            count=len(named),
        )
        return None, None
    val = _first(folders, VALIDATION)
    known = [name for name in folders if name.lower() in (*TRAINING, *VALIDATION, *OTHERS)]
    beside = [name for name in folders if name not in known]
    partners = [name for name in known if name != train]
    if beside and not any(_alike(listing.root, train, partner) for partner in partners):
        if partners:
            listing.notes.add(
                "folders called like a split, beside others: taken as classes",
                ", ".join(known),
                count=len(known),
            )
        return None, None
    unused = [name for name in folders if name not in (train, val)]
    listing.notes.add(
        f"folders beside {train}: left out", ", ".join(unused), count=len(unused), loss=bool(beside)
    )
    return train, val


def _first(folders: list[str], names: tuple[str, ...]) -> str | None:
    """The folder of the first of some names, written exactly so if there is one."""
    for name in names:
        found = [folder for folder in folders if folder.lower() == name]
        if found:
            return name if name in found else found[0]
    return None


def _alike(root: Path, one: str, other: str) -> bool:
    def inside(name: str) -> set[str]:
        return {entry.name for entry in _entries(None, root / name) if entry.is_dir()}

    return bool(inside(one) & inside(other))


def _classes(listing: Listing, folder: Path) -> dict[str, list[str]]:
    """Pictures per class folder in ``folder``; without any, those in it as one class."""
    # The splits' own folder has been looked through before.
    entries = _entries(listing if folder != listing.root else None, folder)
    names = [entry.name for entry in entries if entry.is_dir()]
    flat: list[str] = []
    for entry in entries:
        if not entry.is_dir():
            _sort_in(listing, entry, flat)
    if names and all(name.isdecimal() for name in names):
        names.sort(key=int)
    classes = {name: _pictures(listing, folder / name) for name in names}
    if flat and not any(classes.values()):
        return {listing.root.name or "pictures": flat}
    listing.strays += flat
    return classes


def _pictures(listing: Listing, folder: Path) -> list[str]:
    """All pictures below a class folder, in order; linked folders too, each once."""
    found: list[str] = []
    seen: set[tuple[int, int]] = set()
    waiting = [(folder, 0)]
    while waiting:
        parent, depth = waiting.pop()
        try:
            info = parent.stat()
        except OSError as error:
            _refused(error)
        # A link to a folder above would lead round and round.
        if (info.st_dev, info.st_ino) in seen or depth > MOST_DEPTH:
            listing.notes.add("folders that were met before in their class: left out", parent)
            continue
        seen.add((info.st_dev, info.st_ino))
        entries = _entries(listing, parent)
        for entry in entries:
            if not entry.is_dir():
                _sort_in(listing, entry, found)
        folders = [entry for entry in entries if entry.is_dir()]
        linked = [entry for entry in folders if entry.is_symlink()]
        if linked:
            why = "linked folders inside a class: their pictures are taken"
            listing.notes.add(why, linked[0].path, count=len(linked), loss=False)
        waiting += [(Path(entry.path), depth + 1) for entry in reversed(folders)]
    return found


def _sort_in(listing: Listing, entry: os.DirEntry[str], pictures: list[str]) -> None:
    path = Path(entry.path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        listing.left_out[suffix or path.name] += 1
    elif not entry.is_file() and _there(entry):
        # Opening a pipe would wait for ever.
        listing.notes.add("pipes and devices: left out", entry.path)
    else:
        pictures.append(str(path.relative_to(listing.root)))


def _there(entry: os.DirEntry[str]) -> bool:
    # A link that leads nowhere is a picture that cannot be read, and is said to be.
    try:
        entry.stat()
    except OSError:
        return False
    return True


def _entries(listing: Listing | None, folder: Path) -> list[os.DirEntry[str]]:
    """What lies in a folder by name, less what is hidden; listing: where that is counted."""
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        _refused(error)
    notes = listing.notes if listing is not None else Notes()
    kept = []
    for entry in entries:
        if entry.name.startswith(".") or entry.name.lower() in LITTER:
            notes.add(LEFT_BEHIND, entry.path, loss=False)
        elif entry.name.startswith("__") and entry.is_dir():
            notes.add("folders that begin with __: left out", entry.path)
        else:
            kept.append(entry)
    return kept


def _refused(error: OSError) -> None:
    name = printable(error.filename)
    raise FlexvarError(f"Cannot list {name}: {error.strerror or error}.") from None


def add_titles(listing: Listing, lines: list[str]) -> None:
    """Give the class folders names by the lines of a classes.txt.

    Either a name per number, from 0 on, where all folders are numbers; or the folder's name,
    white space, and its title, as ImageNet's lists have it. What fits neither way is noted.
    """
    folders = list(listing.train)
    if folders and all(name.isdecimal() for name in folders):
        if max(map(int, folders)) < len(lines):
            listing.titles = _unlike({name: lines[int(name)] for name in folders})
            return
    else:
        split = (re.split(r"[\s,]+", line, maxsplit=1) for line in lines)
        titles = {part[0]: part[-1].strip() or part[0] for part in split}
        if all(name in titles for name in folders):
            listing.titles = _unlike({name: titles[name] for name in folders})
            return
        if set(folders) <= set(lines):
            return
    why = "classes.txt that does not fit the class folders: left out"
    listing.notes.add(why, listing.root / "classes.txt", loss=False)


def _unlike(titles: dict[str, str]) -> dict[str, str]:
    """The titles, with the folder behind those that occur twice."""
    counts = Counter(titles.values())
    return {f: t if counts[t] == 1 else f"{t} ({f})" for f, t in titles.items()}
