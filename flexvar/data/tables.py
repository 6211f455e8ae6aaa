"""Lists of pictures: CSV and JSON Lines files with paths and labels, and zip files of folders."""

from __future__ import annotations

import csv
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from PIL import Image

from flexvar.data.captions import FILE as CAPTIONS
from flexvar.data.captions import entries, from_mapping, lines
from flexvar.data.config import DataConfig, Split
from flexvar.data.folders import USUAL_VAL_FRACTION, FilePictures, split_off
from flexvar.data.listing import LEFT_BEHIND, LITTER, SUFFIXES, TRAINING, VALIDATION
from flexvar.data.names import decoded
from flexvar.data.notes import Notes
from flexvar.data.sources import Defaults, choose_classes, no_validation
from flexvar.data.tar import MOST_MEMBER
from flexvar.errors import FlexvarError
from flexvar.images import open_image
from flexvar.text import printable

TABLES = (".csv", ".tsv", ".jsonl", ".ndjson")
# What columns are called, the likeliest first.
COLUMNS = {
    "image": ("image", "file_name", "filename", "image_path", "path", "file", "filepath"),
    "label": ("label", "class", "class_name", "category", "target"),
    "split": ("split", "set", "subset"),
    "caption": ("caption", "captions", "text"),
}
ONLY_CLASS = "pictures"
MOST_LINE = 2**20
MOST_NAME = 1000


class Row(NamedTuple):
    """A picture: its name, the text of its class ("" without one) and of its split, captions."""

    name: str
    label: str
    split: str
    captions: tuple[str, ...] = ()


class Listed:
    """Pictures by name, each with the text of its class and of its split.

    The base of the sources below, which say how a picture is opened. Classes that are whole
    numbers sort as numbers, others as text; a picture without one among others is left out.
    captions: by the pictures' names; of one that stands there several times all of them. order:
    the source's own order of classes.
    """

    defaults = Defaults()

    def __init__(
        self,
        config: DataConfig,
        rows: list[Row],
        notes: Notes,
        order: Sequence[str] | None = None,
    ) -> None:
        self.config, self.notes = config, notes
        bare = sum(not row.label for row in rows)
        if bare and bare < len(rows):
            notes.add("pictures without a label, among others with one: left out", count=bare)
            rows = [row for row in rows if row.label]
        rows = [row._replace(label=printable(row.label) or ONLY_CLASS) for row in rows]
        self.captions: dict[str, tuple[str, ...]] = {}
        for row in rows:
            if row.captions:
                known = self.captions.get(row.name, ())
                self.captions[row.name] = tuple(dict.fromkeys((*known, *row.captions)))
        names = sorted({row.label for row in rows})
        if all(name.isdecimal() and len(name) < 19 for name in names):
            names.sort(key=int)
        if order is not None:
            absent = [name for name in order if name not in names]
            why = "classes of the set that have no picture"
            notes.add(why, next(iter(absent), ""), count=len(absent), loss=False)
            names = list(order)
        self.class_names = choose_classes(names, config.classes)
        held = any(row.split in VALIDATION for row in rows)
        skipped = [row for row in rows if row.split not in ("", *TRAINING, *VALIDATION)]
        notes.add(
            "pictures of other splits than train and val: left out", count=len(skipped), loss=False
        )
        self.parts: dict[Split, list[tuple[str, int]]] = {"train": [], "val": []}
        fraction = config.val_fraction
        self.fraction = 0.0 if held else USUAL_VAL_FRACTION if fraction is None else fraction
        of_class: dict[str, list[tuple[str, str]]] = {}
        for row in rows:
            of_class.setdefault(row.label, []).append((row.name, row.split))
        for number, name in enumerate(self.class_names):
            own = of_class.get(name, [])
            train = [path for path, split in own if split in ("", *TRAINING)]
            val = [path for path, split in own if split in VALIDATION]
            if not held:
                train, val = split_off(train, self.fraction)
            self.parts["train"] += [(path, number) for path in train]
            self.parts["val"] += [(path, number) for path in val]
        if not self.parts["train"]:
            raise FlexvarError(
                f"data source {printable(config.source)!r} lists no picture to train on."
                + "".join(f" {line}." for line in notes.lines()[:5])
            )

    def chosen(self, split: Split) -> tuple[list[str], list[int]]:
        """Names and class numbers of a split. Raises `FlexvarError` for a val split without any."""
        part = self.parts[split]
        if not part:
            raise no_validation(self.config, f"val_fraction is {self.fraction}")
        return [name for name, _ in part], [label for _, label in part]


class Table(Listed):
    """The source of a CSV, TSV or JSON Lines file: a picture a line, paths relative to the file.

    Columns are found by their names (`COLUMNS`), or named by the options image_column,
    label_column and caption_column; which are taken is said in ``notes``.
    """

    def __init__(self, config: DataConfig) -> None:
        path = Path(config.source).expanduser().absolute()
        self.root = path.parent
        notes = Notes()
        rows: list[Row] = []
        columns: dict[str, str | None] | None = None
        for line in _lines(path, notes):
            if columns is None:
                columns = _columns(config, path, line)
                taken = ", ".join(f"{one} as {key}" for key, one in columns.items() if one)
                notes.add("table whose columns were found by their names", taken, loss=False)
            name = text_of(line.get(columns["image"] or ""))
            if not name:
                notes.add("lines without a picture: left out", path)
                continue
            label, split = (text_of(line.get(columns[key] or "")) for key in ("label", "split"))
            if len(label) > MOST_NAME:
                notes.add(f"labels of more than {MOST_NAME} characters: taken as none", label)
                label = ""
            rows.append(Row(name, label, split.lower(), captions_in(line, columns["caption"])))
        super().__init__(config, rows, notes)

    def pictures(self, split: Split) -> FilePictures:
        """The pictures of a split."""
        return FilePictures(self.root, *self.chosen(split), self.captions)


class Zip(Listed):
    """The source of a zip file that holds a folder of pictures: CLASS/*, or train/CLASS/*.

    Captions stand beside the pictures as in a folder, see `flexvar.data.captions`.
    """

    def __init__(self, config: DataConfig) -> None:
        self.path = Path(config.source).expanduser().absolute()
        notes = Notes()
        names = []
        listed: dict[str, tuple[str, ...]] = {}
        with _zip(self.path) as file:
            for info in file.infolist():
                name = info.filename
                parts = PurePosixPath(name).parts
                if parts and parts[-1] == CAPTIONS and info.file_size <= MOST_MEMBER:
                    listed |= _listed(file, name, f"{self.path}: {name}")
                if info.is_dir() or PurePosixPath(name).suffix.lower() not in SUFFIXES:
                    continue
                if any(part.startswith(".") or part.lower() in LITTER for part in parts):
                    notes.add(LEFT_BEHIND, name, loss=False)
                elif info.file_size > MOST_MEMBER:
                    notes.add(f"files of more than {MOST_MEMBER >> 20} MiB: left out", name)
                elif info.flag_bits & 1:
                    notes.add("encrypted files: left out", name)
                else:
                    names.append((name, list(parts)))
        # One folder around all of it says nothing.
        while names and all(len(p) > 1 and p[0] == names[0][1][0] for _, p in names):
            if all(len(p) == 2 for _, p in names):
                break
            names = [(name, parts[1:]) for name, parts in names]
        tops = {parts[0].lower() for _, parts in names if len(parts) > 1}
        splits = bool(tops & set(TRAINING)) and tops <= {*TRAINING, *VALIDATION, "test", "testing"}
        rows = []
        for name, way in names:
            split = way.pop(0).lower() if splits and len(way) > 1 else ""
            label = way[0] if len(way) > 1 else ""
            rows.append(Row(name, label, split, listed.get(name, ())))
        super().__init__(config, rows, notes)

    def pictures(self, split: Split) -> ZipPictures:
        """The pictures of a split."""
        return ZipPictures(self.path, *self.chosen(split), self.captions)


class ZipPictures:
    """Pictures in a zip file, which every process opens for itself."""

    repeats = 1

    def __init__(
        self,
        path: Path,
        names: list[str],
        labels: list[int],
        captions: Mapping[str, tuple[str, ...]],
    ) -> None:
        self.path, self.names, self.labels, self.listed = path, names, labels, captions
        self._file: tuple[int, zipfile.ZipFile] | None = None

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        """The file and the name of a picture in it."""
        return f"{self.path}: {self.names[index]}"

    def label(self, index: int) -> int:
        """The class number of a picture."""
        return self.labels[index]

    def open(self, index: int, enough: tuple[int, int]) -> Image.Image:
        """The picture, upright in RGB."""
        name = self.name(index)
        data = _member(self._opened(), self.names[index], name)
        return open_image(BytesIO(data), enough=enough, name=name)

    def captions(self, index: int) -> tuple[str, ...]:
        """What stands beside a picture, in ``x.txt`` or ``captions.jsonl``."""
        file, listed = self._opened(), self.listed.get(self.names[index], ())
        beside = str(PurePosixPath(self.names[index]).with_suffix(".txt"))
        try:
            file.getinfo(beside)
        except KeyError:
            return listed
        found = lines(_member(file, beside, f"{self.path}: {beside}"))
        return tuple(dict.fromkeys((*found, *listed)))

    def _opened(self) -> zipfile.ZipFile:
        if self._file is None or self._file[0] != os.getpid():
            self._file = os.getpid(), _zip(self.path)
        return self._file[1]

    def state(self) -> str:
        """Names and classes, and the file's size and time of change."""
        info = self.path.stat()
        pairs = list(zip(self.names, self.labels, strict=True))
        return f"{info.st_size} {info.st_mtime_ns} {pairs}"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None}


def _member(file: zipfile.ZipFile, member: str, name: str) -> bytes:
    """The bytes of a member. Raises `FlexvarError` for a damaged or very large one."""
    try:
        with file.open(member) as opened:
            data = opened.read(MOST_MEMBER + 1)
    except Exception as error:
        # zipfile and what unpacks stumble over anything in damaged files.
        why = printable(error, most=300)
        raise FlexvarError(f"{printable(name)} cannot be read: {why}") from None
    if len(data) > MOST_MEMBER:
        raise FlexvarError(f"{printable(name)} cannot be read: it is too large")
    return data


def _listed(file: zipfile.ZipFile, member: str, name: str) -> dict[str, tuple[str, ...]]:
    """The captions of a ``captions.jsonl`` by the pictures' names in the zip file."""
    folder = PurePosixPath(member).parent
    result: dict[str, tuple[str, ...]] = {}
    for picture, captions in entries(decoded(_member(file, member, name)), name):
        path = str(folder / picture)
        result[path] = (*result.get(path, ()), *captions)
    return result


def captions_in(line: Mapping[str, Any], column: str | None) -> tuple[str, ...]:
    """The captions in a line of a table: a text, or of JSON a list of texts."""
    found = from_mapping({"captions": line.get(column)} if column is not None else {})
    # Bytes of a file that are no text.
    return tuple(text.encode("utf-8", "replace").decode() for text in found)


def _zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except Exception as error:
        why = printable(error, most=300)
        raise FlexvarError(f"{printable(path)} cannot be read as a zip file: {why}.") from None


def _columns(config: DataConfig, path: Path, line: dict[str, Any]) -> dict[str, str | None]:
    """The column of each kind, None where there is none."""
    by_name = {str(key).strip().lower(): key for key in line}
    result: dict[str, str | None] = {}
    for kind, names in COLUMNS.items():
        wanted = getattr(config, f"{kind}_column", None)
        if wanted is not None and wanted not in line:
            columns = printable(", ".join(map(str, line)), most=300)
            raise FlexvarError(
                f"{kind}_column: {printable(path)} has no column {wanted!r}. Columns: {columns}."
            )
        result[kind] = wanted or next((by_name[one] for one in names if one in by_name), None)
    if result["image"] is None:
        columns = printable(", ".join(map(str, line)), most=300)
        raise FlexvarError(
            f"{printable(path)}: no column is called like one of pictures "
            f"({', '.join(COLUMNS['image'])}); name it: image_column=NAME. Columns: {columns}."
        )
    return result


def _lines(path: Path, notes: Notes) -> Iterator[dict[str, Any]]:
    """The lines of a table by column. Raises `FlexvarError` for a file that cannot be read."""
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            if path.suffix.lower() in (".csv", ".tsv"):
                comma = "\t" if path.suffix.lower() == ".tsv" else ","
                yield from csv.DictReader(_bounded(file, path), delimiter=comma)
                return
            for text in _bounded(file, path):
                if not text.strip():
                    continue
                try:
                    line = json.loads(text)
                except (ValueError, RecursionError):
                    line = None
                if isinstance(line, dict):
                    yield line
                else:
                    notes.add("lines that are no JSON object: left out", text[:80])
    except (OSError, csv.Error) as error:
        why = printable(error, most=300)
        raise FlexvarError(f"{printable(path)} cannot be read as a table: {why}.") from None


def _bounded(file: Any, path: Path) -> Iterator[str]:
    while text := file.readline(MOST_LINE + 1):
        if len(text) > MOST_LINE:
            raise FlexvarError(f"{printable(path)} is no table: a line has over a million letters.")
        yield text


def text_of(value: Any) -> str:
    """A field as text, "" for none; numbers that are whole without a point."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() if isinstance(value, str | int | float) else ""
