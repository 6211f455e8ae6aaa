"""What pictures are called: read beside them, in folders and in shards."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flexvar.errors import FlexvarError

FILE = "captions.jsonl"


def captions_of(sample: Mapping[str, Any]) -> tuple[str, ...]:
    """The captions of a sample of a shard: lines of ``.txt``, then those of ``.json``."""
    found = lines(sample.get("txt", b""))
    try:
        data = json.loads(sample.get("json", b"{}"))
    except (ValueError, RecursionError):
        return found
    return tuple(dict.fromkeys((*found, *from_mapping(data))))


def lines(text: bytes) -> tuple[str, ...]:
    """A caption a line; bytes that are no UTF-8 become replacement characters."""
    found = (line.strip() for line in text.decode("utf-8-sig", "replace").splitlines())
    return tuple(line for line in found if line)


def from_mapping(data: Any) -> tuple[str, ...]:
    """The texts under "caption" and "captions", each a text or a list of texts."""
    if not isinstance(data, dict):
        return ()
    values: list[Any] = []
    for key in ("caption", "captions"):
        value = data.get(key, [])
        values += value if isinstance(value, list) else [value]
    # JSON can hold halves of surrogate pairs, which are no text.
    texts = (v.encode("utf-8", "replace").decode() for v in values if isinstance(v, str))
    return tuple(text.strip() for text in texts if text.strip())


class FolderCaptions:
    """Captions of an image folder: ``x.txt`` beside ``x.png``, and ``captions.jsonl`` files.

    A line of ``captions.jsonl`` is ``{"file": "cat/x.png", "caption": "a cat"}``, or with
    "captions", a list; the file is named from where ``captions.jsonl`` lies. Both may be there.
    listed: captions that are known already, by picture.
    """

    def __init__(
        self, root: Path, paths: list[str], listed: Mapping[str, tuple[str, ...]] | None = None
    ) -> None:
        self.root = root
        self._listed = dict(listed or {})
        inside = [Path(path) for path in paths if not Path(path).is_absolute()]
        folders = {parent for path in inside for parent in path.parents} or {Path(".")}
        files = [root / folder / FILE for folder in sorted(folders)]
        self._read_all([file for file in files if file.is_file()], set(paths))

    def of(self, path: str) -> tuple[str, ...]:
        """The captions of a picture, named from the root on."""
        beside = (self.root / path).with_suffix(".txt")
        try:
            found = lines(beside.read_bytes())
        except FileNotFoundError:
            found = ()
        except OSError as error:
            raise FlexvarError(f"Cannot read the caption {beside}: {error.strerror}.") from None
        return tuple(dict.fromkeys((*found, *self._listed.get(path, ()))))

    def state(self, path: str) -> str:
        """A text that changes with the captions of a picture; "" without any."""
        found = self.of(path)
        return f" {found}" if found else ""

    def _read_all(self, files: list[Path], known: set[str]) -> None:
        for file in files:
            strange = ""
            for name, captions in entries(_text(file), file):
                path = str((file.parent / name).relative_to(self.root)) if name else ""
                if path in known:
                    self._listed[path] = (*self._listed.get(path, ()), *captions)
                elif not (self.root / path).is_file():
                    strange = strange or name
            if strange:
                warnings.warn(
                    f"{file} has captions of {strange!r}, which is no picture there.", stacklevel=5
                )


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FlexvarError(f"Cannot read {file}: {error}.") from None


def entries(lines_of: str, file: object) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(picture, captions) of each line of a ``captions.jsonl``.

    Raises `FlexvarError` for a line that is none.
    """
    for number, text in enumerate(lines_of.splitlines(), 1):
        if not text.strip():
            continue
        try:
            data = json.loads(text)
        except (ValueError, RecursionError):
            data = None
        name = data.get("file") if isinstance(data, dict) else None
        captions = from_mapping(data)
        if not isinstance(name, str) or not captions or Path(name).is_absolute():
            raise FlexvarError(
                f"{file}, line {number}: got {text[:80]!r}; expected "
                '{"file": "name.png", "caption": "words"}, or "captions" with a list.'
            )
        yield name, captions
