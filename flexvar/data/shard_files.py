"""The files behind WebDataset shards: which are meant, and what stands in their headers."""

from __future__ import annotations

import glob
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from flexvar.data.folders import SUFFIXES, VALIDATION
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


def headers(url: str) -> Iterator[tuple[str, str]]:
    """(key, class text) of each picture in a local shard; payloads are skipped over."""
    split = webdataset().base_plus_ext
    sample: dict[str, Any] = {}
    try:
        with tarfile.open(url) as tar:
            for member in tar:
                key, suffix = split(member.name)
                if key is None or suffix is None or not member.isreg():
                    continue
                if key != sample.get("__key__"):
                    yield from _entry(sample)
                    sample = {"__key__": key}
                kind = suffix.lower()
                wanted = kind in ("cls", "json") and (file := tar.extractfile(member))
                sample[kind] = file.read() if wanted and file else b""
    except (tarfile.TarError, OSError, EOFError):
        # Reading it later says so, with a warning; what stands before the damage counts.
        pass
    yield from _entry(sample)


def _entry(sample: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(sample["__key__"], class_text(sample))] if picture(sample) else []


def picture(sample: Mapping[str, Any]) -> str | None:
    """The key of the picture in a sample: the first whose last suffix is that of one."""
    names = (name for name in sample if not name.startswith("__"))
    return next((name for name in names if f".{name.rsplit('.', 1)[-1]}" in SUFFIXES), None)


def class_text(sample: Mapping[str, Any]) -> str:
    """The class number or name as it stands in a sample, "" without one."""
    if "cls" in sample:
        return str(sample["cls"].decode("utf-8", "replace").strip())
    try:
        data = json.loads(sample.get("json", b"{}"))
    except ValueError:
        return ""
    value = data.get("label", data.get("cls", "")) if isinstance(data, dict) else ""
    return str(value)
