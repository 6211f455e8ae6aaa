"""Members of a shard -> samples: which belong together, and the class that a sample names.

The key of a sample is its members' name up to the first dot of the file name, as WebDataset has
it: ``dir/7.seg.png`` and ``dir/7.json`` are one sample, ``dir/7``. Names like ``22.05.png``,
``22.06.png`` would be merged by that, so a key is split at the last dot instead where in its shard
a label has dots before its suffix too and a picture of the same name (``22.05.cls``), or where
several pictures of it have and nothing of it has not. Addresses are read once and have no second
look: there only the label is found so.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

from flexvar.data.captions import captions_of
from flexvar.data.listing import SUFFIXES
from flexvar.data.names import decoded
from flexvar.data.notes import Notes
from flexvar.data.tar import MOST_MEMBER, DamagedError, Tar
from flexvar.text import printable

LABELS = ("cls", "json")
CAPTION = "txt"
# Longer ones are no labels: JSON may hold much beside.
MOST_LABEL = {"cls": 2**20, "json": 16 * 2**20, CAPTION: 2**20}
MOST_NAME = 1000
_NAME = re.compile(r"((?:.*/|)[^./][^./]*)\.([^/]*)", re.DOTALL)
# What webdataset itself passes over.
_META = re.compile(r"__[^/]*__($|/)")
_LITTER = frozenset(("__MACOSX", "@eaDir", "#recycle", ".AppleDouble", ".Trashes"))


class Part(NamedTuple):
    """A picture, label or caption of a shard.

    key, suffix: before and behind the first dot. stem: before the last one. kind: "picture" or
    a label's suffix. read: its bytes, which have to be read before the next part is asked for.
    """

    key: str
    suffix: str
    stem: str
    kind: str
    read: Callable[[], bytes]


@dataclass(slots=True)
class Group:
    """The parts of one sample. picture: the first one; its bytes are read if they are wanted."""

    key: str
    picture: Part | None = None
    data: bytes = b""
    labels: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    more: int = 0
    twice: int = 0


class Index(NamedTuple):
    """What reading a shard has to know beforehand.

    split: keys that are split at the last dot. loose: class texts by key, of labels that do not
    stand beside their pictures.
    """

    split: frozenset[str] = frozenset()
    loose: Mapping[str, str] = MappingProxyType({})


class Entry(NamedTuple):
    """A sample of a shard: key, class text ("" without one), the picture's bytes, captions."""

    key: str
    text: str
    data: bytes
    captions: tuple[str, ...] = ()


def entries(tar: Tar, index: Index, notes: Notes) -> Iterator[Entry]:
    """The pictures of a shard, in order. Raises `DamagedError` behind the last that is whole."""
    problem: list[DamagedError] = []
    for group in _grouped(_until(_parts(tar, notes), problem), index.split, read=True):
        _count(group, notes)
        if group.picture is not None:
            text = _text(group, notes) or index.loose.get(group.key, "")
            called = {suffix.rsplit(".", 1)[-1]: data for suffix, (_, data) in group.labels.items()}
            yield Entry(group.key, text, group.data, captions_of(called))
    if problem:
        raise problem[0]


def take_stock(tar: Tar, notes: Notes) -> tuple[list[tuple[str, str]], Index, DamagedError | None]:
    """(key, class text) of each picture in a shard whose file can be read twice, and its index.

    Third: where it is damaged, how; what stands before counts.
    """
    parts: list[tuple[Part, bytes]] = []
    problem: list[DamagedError] = []
    for part in _until(_parts(tar, notes), problem):
        data = b""
        if part.kind in LABELS:
            try:
                data = part.read()
            except DamagedError as error:
                problem.append(error)
                break
        parts.append((part._replace(read=bytes), data))
    split = _split_keys(part for part, _ in parts)
    found: list[tuple[str, str]] = []
    loose: dict[str, str] = {}
    known = (part._replace(read=partial(bytes, data)) for part, data in parts)
    for group in _grouped(known, split, read=False):
        _count(group, notes)
        text = _text(group, notes)
        if group.picture is not None:
            found.append((group.key, text))
        elif text:
            loose.setdefault(group.key, text)
    bare = {key for key, text in found if not text}
    for key in loose.keys() - bare:
        notes.add("labels without a picture: left out", key, loss=False)
    loose = {key: text for key, text in loose.items() if key in bare}
    found = [(key, text or loose.get(key, "")) for key, text in found]
    return found, Index(split, loose), problem[0] if problem else None


def _until(parts: Iterator[Part], problem: list[DamagedError]) -> Iterator[Part]:
    try:
        yield from parts
    except DamagedError as error:
        problem.append(error)


def _parts(tar: Tar, notes: Notes) -> Iterator[Part]:
    for info in tar:
        if info.isdir():
            continue
        name = info.name
        if _META.match(name) or _litter(name):
            notes.add("files that other programs leave behind: left out", name, loss=False)
            continue
        found = _NAME.fullmatch(name)
        if found is None:
            continue
        last = found[2].rsplit(".", 1)[-1].lower()
        kind = "picture" if f".{last}" in SUFFIXES else last
        if kind not in ("picture", *LABELS, CAPTION):
            continue
        if info.islnk() or info.issym():
            target = tar.target(info) if tar.seekable else None
            if target is None:
                notes.add("links that lead to no earlier file of their shard: left out", name)
                continue
            info = target
        elif not info.isreg():
            notes.add("members that are neither files nor links: left out", name)
            continue
        most = MOST_LABEL.get(kind, MOST_MEMBER)
        if info.size > most:
            notes.add(f"files of more than {most >> 20} MiB: left out", name)
            continue
        read = partial(tar.read, info)
        yield Part(found[1], found[2].lower(), name[: -len(last) - 1], kind, read)


def _litter(name: str) -> bool:
    *folders, file = name.split("/")
    return file.startswith(".") or not _LITTER.isdisjoint(folders)


def _split_keys(parts: Iterable[Part]) -> frozenset[str]:
    plain: Counter[str] = Counter()
    pictures: dict[str, set[str]] = defaultdict(set)
    labels: dict[str, set[str]] = defaultdict(set)
    for part in parts:
        if part.stem == part.key:
            plain[part.key] += 1
        else:
            (pictures if part.kind == "picture" else labels)[part.key].add(part.stem)
    return frozenset(
        key
        for key, stems in pictures.items()
        if stems & labels[key] or (len(stems) > 1 and not plain[key])
    )


def _grouped(parts: Iterator[Part], split: frozenset[str], *, read: bool) -> Iterator[Group]:
    group: Group | None = None
    try:
        for part in parts:
            key = part.stem if part.key in split else part.key
            suffix = part.kind if part.key in split and part.kind != "picture" else part.suffix
            if group is None or key != group.key:
                if group is not None:
                    yield group
                group = Group(key)
            if suffix in group.seen:
                group.twice += 1
            elif part.kind == "picture":
                if group.picture is None:
                    group.data = part.read() if read else b""
                    group.picture = part
                else:
                    group.more += 1
            else:
                group.labels[suffix] = part.stem, part.read()
            group.seen.add(suffix)
    except DamagedError:
        if group is not None:
            yield group
        raise
    if group is not None:
        yield group


def _count(group: Group, notes: Notes) -> None:
    notes.add(
        "pictures that are not the first of their sample: left out", group.key, count=group.more
    )
    notes.add(
        "files whose name came before in their sample: left out", group.key, count=group.twice
    )


def _text(group: Group, notes: Notes) -> str:
    """The class number or name as it stands in a sample, "" without one."""
    if not group.labels:
        return ""
    stem = group.picture.stem if group.picture is not None else None
    for kind in LABELS:
        if kind in group.labels:
            return _label(kind, group.labels[kind][1], group.key, notes)
    for suffix, (own, data) in group.labels.items():
        if own == stem and not suffix.endswith(CAPTION):
            return _label(suffix.rsplit(".", 1)[-1], data, group.key, notes)
    return ""


def _label(kind: str, data: bytes, key: str, notes: Notes) -> str:
    text = decoded(data)
    if "\ufffd" in text:
        notes.add("labels that are not UTF-8", key)
    if kind == "json":
        try:
            found = json.loads(text)
        except (ValueError, RecursionError):
            notes.add("labels that are no JSON", key)
            return ""
        text = _json_label(found)
    text = text.strip()
    if len(text) > MOST_NAME:
        notes.add(f"labels of more than {MOST_NAME} characters: taken as none", key)
        return ""
    return printable(text)


def _json_label(found: Any) -> str:
    value = None
    if isinstance(found, dict):
        value = found.get("label")
        value = found.get("cls") if value is None else value
    if isinstance(value, float):
        if not math.isfinite(value):
            return ""
        value = int(value) if value == int(value) else value
    if isinstance(value, int) and abs(value) > 10**18:
        # Python refuses to write very long ones.
        return "9" * 19
    return str(value) if isinstance(value, str | int | float) else ""
