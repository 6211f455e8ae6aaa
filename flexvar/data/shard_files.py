"""The files behind WebDataset shards: which are meant, and how they are opened."""

from __future__ import annotations

import glob
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from flexvar.data.listing import VALIDATION
from flexvar.data.tar import DamagedError
from flexvar.errors import FlexvarError

# Addresses are opened by programs that webdataset starts; a recipe shall not run commands.
SCHEMES = ("http", "https", "s3", "gs", "hf")


def names_shards(source: str) -> bool:
    """Whether a source means shards: an address, .tar files, or a folder with some."""
    if scheme(source) or re.search(r"\.tar(\.gz)?$", source):
        return True
    path = Path(source).expanduser()
    return any(any(folder.glob("*.tar")) for folder in (path, path / "train"))


def webdataset() -> Any:
    """The module of webdataset that reads tar files. Raises `FlexvarError` without it."""
    try:
        return import_module("webdataset.tariterators")
    except ImportError:
        raise FlexvarError(
            "Shards need the package webdataset, which is not installed: "
            "pip install 'flexvar[data]'"
        ) from None


def scheme(source: str) -> str:
    """What stands before the colon of an address, "" for a file."""
    match = re.match(r"([a-z0-9]{2,}):", source)
    return match[1] if match else ""


def find(source: str) -> tuple[list[str], list[str]]:
    """(training, validation) shards, in order. Raises `FlexvarError` where there is none."""
    # Before anything else: it brings braceexpand along.
    webdataset()
    braceexpand = import_module("braceexpand").braceexpand
    if scheme(source):
        if scheme(source) not in SCHEMES or re.search(r"[\s'\"`$;|&<>]", source):
            raise FlexvarError(
                f"data source {source!r}: shards are read from files and from addresses that "
                f"begin with {', '.join(f'{one}://' for one in SCHEMES)}."
            )
        return list(braceexpand(source)), []
    path = Path(source).expanduser().absolute()
    if path.is_dir():
        folders = [path, path / "train", *(path / name for name in VALIDATION)]
        found = [str(tar) for folder in folders for tar in sorted(folder.glob("*.tar"))]
    else:
        found = [tar for pattern in braceexpand(str(path)) for tar in sorted(_matches(pattern))]
    val = [tar for tar in found if _for_validation(Path(tar), path)]
    train = [tar for tar in found if tar not in val]
    if not train:
        # Validation shards alone, asked for by name, are what to train on.
        return val, []
    return train, val


def _matches(pattern: str) -> list[str]:
    if Path(pattern).is_file():
        return [pattern]
    if found := glob.glob(pattern):
        return found
    raise FlexvarError(f"There is no shard {pattern}.")


def _for_validation(shard: Path, root: Path) -> bool:
    inside = shard.relative_to(root) if shard.is_relative_to(root) else Path(shard.name)
    words = re.split(r"[-_./]", str(inside).lower())
    return any(name in words for name in VALIDATION)


@contextmanager
def opened(url: str) -> Iterator[Any]:
    """A shard, open for reading. Raises `DamagedError` if it cannot be, or breaks off."""
    if not scheme(url):
        try:
            # A pipe or a device would never end, and opening one may never begin.
            if not stat.S_ISREG(Path(url).stat().st_mode):
                raise DamagedError("it is no file")
            file = Path(url).open("rb")  # noqa: SIM115
        except (OSError, ValueError) as error:
            raise DamagedError(str(error)) from None
        with file:
            yield file
        return
    try:
        stream = webdataset().gopen.gopen(url)
    except (OSError, ValueError) as error:
        raise DamagedError(str(error)) from None
    finished = False
    try:
        yield stream
        finished = True
    finally:
        try:
            stream.close()
        except OSError as error:
            # A download that is broken off complains too, but nothing is wrong then.
            if finished:
                raise DamagedError(str(error)) from None
