"""Data sets of the hub, and folders in its formats, by the library ``datasets``: ``hf:NAME``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from flexvar.data.config import HUB, DataConfig, Split
from flexvar.data.folders import USUAL_VAL_FRACTION
from flexvar.data.listing import TRAINING, VALIDATION
from flexvar.data.notes import Notes
from flexvar.data.sources import Defaults, Raw, Source, choose_classes, held_out, no_validation
from flexvar.data.stream import PictureStream
from flexvar.data.tables import COLUMNS, ONLY_CLASS, Listed, Row, captions_in, text_of
from flexvar.errors import FlexvarError, cut, one_line
from flexvar.images import open_image
from flexvar.text import printable

# Files that are a data set by themselves -> the library's name of their format.
FORMATS = {".parquet": "parquet", ".arrow": "arrow"}
# What `Dataset.save_to_disk` leaves.
SAVED = ("dataset_dict.json", "state.json")
_ID = r"\w[\w.-]*(/\w[\w.-]*)?"


def open_data_set(config: DataConfig) -> Source:
    """The source of ``hf:NAME`` or ``hf:FOLDER``: a table in files here, or a stream.

    Raises `FlexvarError` without the library, for a name there is not, and for columns that are
    not found.
    """
    found = _load(config)
    return StreamedSet(config, found) if config.streaming else DataSet(config, found)


class DataSet(Listed):
    """A data set whose rows are on this machine, in files that are read where they lie.

    The split ``train``, or the only one there is, is trained on; ``validation`` is held out, or
    else a part of the training rows. Columns are found by their types and usual names, or named
    by the options image_column, label_column and caption_column; which are taken is noted.
    """

    def __init__(self, config: DataConfig, found: Mapping[str, Any]) -> None:
        notes = Notes()
        self.sets, self.root = found, _root(config)
        self.splits = _splits(config, found, notes)
        first = found[self.splits["train"]]
        self.columns = _columns(config, first.features, notes)
        label = self.columns["label"]
        names = _names(first.features[label]) if label is not None else None
        rows: list[Row] = []
        for split, key in self.splits.items():
            _check_columns(config, key, self.columns, found[key].features)
            texts = _texts(found[key], label, names)
            rows += [Row(f"{key}/{number}", text, split) for number, text in enumerate(texts)]
        order = None if names is None else list(map(printable, names))
        super().__init__(config, rows, notes, order)

    def pictures(self, split: Split) -> RowPictures:
        """The pictures of a split. Raises `FlexvarError` for a val split without any."""
        names, labels = self.chosen(split)
        key = names[0].rpartition("/")[0]
        numbers = [int(name.rpartition("/")[2]) for name in names]
        title = f"{printable(self.config.source)} {key}"
        return RowPictures(title, self.sets[key], self.columns, numbers, labels, self.root)


class RowPictures:
    """Pictures in rows of a table; numbers: which rows, labels: their class numbers."""

    repeats = 1

    def __init__(
        self,
        title: str,
        table: Any,
        columns: Mapping[str, str | None],
        numbers: list[int],
        labels: list[int],
        root: Path,
    ) -> None:
        self.title, self.numbers, self.labels, self.folder = title, numbers, labels, root
        self.image, self.caption = columns["image"], columns["caption"]
        self.table = table
        # A row of all columns would read what nobody asks for.
        self._images = _undecoded(table, self.image).select_columns([self.image])
        self._captions = None if self.caption is None else table.select_columns([self.caption])

    def __len__(self) -> int:
        return len(self.numbers)

    def name(self, index: int) -> str:
        """The data set, its split, and the number of the row."""
        return f"{self.title}, row {self.numbers[index]}"

    def label(self, index: int) -> int:
        """The class number of a picture."""
        return self.labels[index]

    def open(self, index: int, enough: tuple[int, int]) -> Image.Image:
        """The picture, upright in RGB; a large JPEG is decoded at a fraction of its size."""
        name = self.name(index)
        try:
            value = self._images[self.numbers[index]][self.image]
        except Exception as error:
            raise FlexvarError(f"{name} cannot be read: {_said(error)}") from None
        return open_image(BytesIO(_encoded(value, self.folder, name)), enough=enough, name=name)

    def captions(self, index: int) -> tuple[str, ...]:
        """The captions of a row: a text, or a list of texts."""
        if self._captions is None:
            return ()
        return captions_in(self._captions[self.numbers[index]], self.caption)

    def state(self) -> str:
        """Rows and classes, with size and time of change of the table's files."""
        files = [Path(one["filename"]) for one in self.table.cache_files]
        stats = [(str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in files]
        about = (self.image, self.caption, self.numbers, self.labels)
        return f"{stats or self.table._fingerprint} {about}"


class StreamedSet:
    """A data set that is read from the hub, or from files here, while it is trained on.

    How many pictures it has, and its classes, come from its description; where that has none,
    the options ``samples`` and ``classes`` have to be given.
    """

    defaults = Defaults()

    def __init__(self, config: DataConfig, found: Mapping[str, Any]) -> None:
        self.config, self.notes, self.root = config, Notes(), _root(config)
        self.splits = _splits(config, found, self.notes)
        self.sets = {key: found[key] for key in self.splits.values()}
        first = self.sets[self.splits["train"]]
        features = first.features
        if features is None:
            features = _features_of(config, first)
        self.columns = _columns(config, features, self.notes)
        label = self.columns["label"]
        self.names = None if label is None else _names(features[label])
        known = [ONLY_CLASS] if label is None else self.names or config.classes
        if known is None:
            raise FlexvarError(
                f"data source {config.source!r}: the description of its column {label!r} has no "
                "class names, and a stream cannot be looked through for them; give them in order "
                "(classes: [...]), or read the data set without streaming."
            )
        self.class_names = choose_classes([printable(name) for name in known], config.classes)
        fraction = config.val_fraction
        self.fraction = USUAL_VAL_FRACTION if fraction is None else fraction
        if "val" in self.splits:
            self.fraction = 0.0

    def pictures(self, split: Split) -> RowStream:
        """The pictures of a split. Raises `FlexvarError` for a val split without any."""
        if split == "val" and "val" not in self.splits and self.fraction == 0:
            raise no_validation(self.config, "val_fraction is 0")
        key = self.splits.get(split, self.splits["train"])
        table = self.sets[key]
        about = (getattr(table.info, "splits", None) or {}).get(key)
        total = getattr(about, "num_examples", None) or self.config.samples
        if total is None:
            raise FlexvarError(
                f"data source {self.config.source!r}: its description does not say how many rows "
                f"the split {key!r} has; give the number (samples: N), or read it without "
                "streaming."
            )
        held = None if "val" in self.splits else split == "val"
        share = {None: 1.0, True: self.fraction, False: 1 - self.fraction}[held]
        return RowStream(self, key, max(1, round(total * share)), held)


class RowStream(PictureStream):
    """One split of a data set, row after row.

    held: whether the held-out rows are wanted, the others, or (None) all.
    """

    def __init__(self, source: StreamedSet, key: str, length: int, held: bool | None) -> None:
        title = f"{printable(source.config.source)} {key}"
        table = source.sets[key]
        super().__init__(title, max(1, int(getattr(table, "num_shards", 1))), length)
        self.key, self.held, self.fraction, self.root = key, held, source.fraction, source.root
        self.columns = source.columns
        self.names = None if source.names is None else list(map(printable, source.names))
        self.numbers = {name: number for number, name in enumerate(source.class_names)}
        wanted = [name for name in self.columns.values() if name is not None]
        self.table = _undecoded(table, self.columns["image"]).select_columns(wanted)

    def __getstate__(self) -> dict[str, Any]:
        # Processes that decode are sent pictures; the connection is this one's.
        return {**self.__dict__, "table": None}

    def state(self) -> str:
        """The description: rows that change under the same name are not noticed."""
        return f"{self.title} {self.length} {self.held} {self.fraction} {self.numbers}"

    def read(self, order: Iterable[int]) -> Iterator[Raw]:
        """The rows of parts, in the order of those."""
        for part in order:
            table = self.table
            if self.parts > 1:
                table = table.shard(num_shards=self.parts, index=part)
            try:
                for number, row in enumerate(table):
                    name = f"{self.title}, row {number} of part {part}"
                    # Wherever the data set lies, the same rows are held out.
                    where = f"{self.key} {part} {number}"
                    if self.held not in (None, held_out(where, self.fraction)):
                        continue
                    if (raw := self._raw(name, row)) is not None:
                        yield raw
            except FlexvarError:
                raise
            except Exception as error:
                why = f"{self.title}: part {part} cannot be read to its end: {_said(error)}"
                self.problems[f"{self.title} {part}"] = why

    def _raw(self, name: str, row: Mapping[str, Any]) -> Raw | None:
        label = self.columns["label"]
        text = ONLY_CLASS if label is None else _label(row.get(label), self.names)
        if printable(text) not in self.numbers:
            return None
        try:
            data = _encoded(row.get(self.columns["image"] or ""), self.root, name)
        except FlexvarError as error:
            self.problems[name] = str(error)
            return None
        captions = captions_in(row, self.columns["caption"])
        return Raw(name, self.numbers[printable(text)], data, captions)


def _library() -> Any:
    try:
        library = import_module("datasets")
        if not hasattr(library, "load_dataset"):  # a folder here of that name
            raise ImportError
        return library
    except ImportError:
        raise FlexvarError(
            "data source hf:NAME needs the library datasets, which is not installed: "
            "pip install 'flexvar[data-hf]'"
        ) from None


def _root(config: DataConfig) -> Path:
    path = Path(config.source.removeprefix(HUB)).expanduser().absolute()
    return path if path.is_dir() else path.parent


def _load(config: DataConfig) -> dict[str, Any]:
    """The splits of a data set by name, as tables or as streams."""
    library = _library()
    name = config.source.removeprefix(HUB)
    path = Path(name).expanduser()
    local = path.exists()
    if local and config.revision is not None:
        raise FlexvarError(
            f"revision: got {config.revision!r} for {printable(path)}; only data sets of the hub "
            "have revisions."
        )
    if not local and (re.fullmatch(_ID, name) is None or ".." in name):
        raise FlexvarError(
            f"data source {config.source!r}: there is no folder {name!r}, and it is no name of a "
            "data set on the hub (owner/name)."
        )
    try:
        if any((path / one).is_file() for one in SAVED):
            found = library.load_from_disk(str(path))
            if config.streaming:
                found = _streams(found)
        elif local and path.suffix.lower() in FORMATS:
            found = library.load_dataset(
                FORMATS[path.suffix.lower()],
                data_files={"train": str(path)},
                streaming=config.streaming,
            )
        else:
            found = library.load_dataset(
                str(path) if local else name,
                config.subset,
                revision=config.revision,
                streaming=config.streaming,
            )
    except Exception as error:
        raise _failure(error, config, local) from None
    return dict(found) if isinstance(found, Mapping) else {"train": found}


def _streams(found: Any) -> Any:
    if isinstance(found, Mapping):
        return {key: _streams(table) for key, table in found.items()}
    return found.to_iterable_dataset(num_shards=max(1, len(found.cache_files)))


def _failure(error: Exception, config: DataConfig, local: bool) -> FlexvarError:
    """What went wrong between here and a data set, and what to do about it."""
    from huggingface_hub import constants

    from flexvar import hub

    name = config.source.removeprefix(HUB)
    if local or isinstance(error, ValueError | NotImplementedError | RuntimeError):
        return FlexvarError(f"data source {config.source!r} cannot be read: {_said(error)}")
    if constants.HF_HUB_OFFLINE:
        return FlexvarError(
            f"data source {config.source!r} is not in the cache, and HF_HUB_OFFLINE forbids the "
            f"network ({_said(error)}). Unset it, or copy the cache from a machine that has it."
        )
    missing = type(error).__name__ in ("DatasetNotFoundError", "DataFilesNotFoundError")
    if not missing:
        return hub.failure(error, f"data source {config.source!r}", name, config.revision)
    return FlexvarError(
        f"data source {config.source!r}: there is no folder {name!r} here, and the hub has no "
        f"data set of that name, or it asks for a token or consent ({_said(error)}). To log in: "
        "`hf auth login`."
    )


def _said(error: BaseException) -> str:
    return cut(one_line(error) or type(error).__name__, 400)


def _splits(config: DataConfig, found: Mapping[str, Any], notes: Notes) -> dict[Split, str]:
    """The data set's names of the splits that are used."""
    val = next((key for key in found if key.lower() in VALIDATION), None)
    others = [key for key in found if key != val]
    train = next((key for key in others if key.lower() in TRAINING), None)
    if train is None:
        if len(others) != 1:
            raise FlexvarError(
                f"data source {config.source!r} has no split to train on: expected one that is "
                f"called train, got {', '.join(map(printable, found)) or 'none'}."
            )
        train = others[0]
        notes.add("split that is not called train: trained on", train, loss=False)
    left = [key for key in others if key != train]
    notes.add("other splits: left out", next(iter(left), ""), count=len(left), loss=False)
    return {"train": train} if val is None else {"train": train, "val": val}


def _columns(
    config: DataConfig, features: Mapping[str, Any], notes: Notes
) -> dict[str, str | None]:
    """The column of each kind, None where there is none: named, or by type and usual name."""
    result: dict[str, str | None] = {}
    guessed = []
    for kind in ("image", "label", "caption"):
        wanted = getattr(config, f"{kind}_column")
        fits = {name: _fits(kind, feature) for name, feature in features.items()}
        listed = ", ".join(f"{name} ({_kind(feature)})" for name, feature in features.items())
        listed = cut(printable(listed), 600)
        if wanted is not None:
            if not fits.get(wanted):
                what = "has no column" if wanted not in fits else f"holds no {kind}s in its column"
                raise FlexvarError(
                    f"{kind}_column: {config.source!r} {what} {wanted!r}. Columns: {listed}."
                )
            result[kind] = wanted
            continue
        usual = {name: COLUMNS[kind].index(name.lower()) for name in fits if name.lower() in
                 COLUMNS[kind]}  # fmt: skip
        # The type that means it, then the usual names among what can hold it.
        sure = [name for name, fit in fits.items() if fit == 2]
        likely = [name for name, fit in fits.items() if fit == 1 and name in usual]
        choices = sure or likely
        result[kind] = min(choices, key=lambda name: usual.get(name, 99)) if choices else None
        if result[kind] is not None:
            guessed.append(f"{result[kind]} as {kind}")
            if also := [name for name in choices if name != result[kind]]:
                why = f"columns that could be the {kind} too: name the one you mean, {kind}_column"
                notes.add(why, f"{', '.join(also)} and not {result[kind]}", count=len(also))
        if kind == "image" and result[kind] is None:
            raise FlexvarError(
                f"data source {config.source!r}: no column holds pictures by its type or name; "
                f"name it: image_column=NAME. Columns: {listed}."
            )
    if guessed:
        notes.add("data set whose columns were found by types and names", ", ".join(guessed),
                  loss=False)  # fmt: skip
    return result


def _fits(kind: str, feature: Any) -> int:
    """2: a column of this type is such a one; 1: it can be, if its name says so; 0: it cannot."""
    named = _kind(feature)
    if kind == "image":
        return 2 if named == "Image" else int(named in ("string", "large_string", "binary"))
    if kind == "label":
        plain = re.fullmatch(r"u?int\d+|(large_)?string|bool", named)
        return 2 if named == "ClassLabel" else int(plain is not None)
    inner = getattr(feature, "feature", feature[0] if isinstance(feature, list) else feature)
    return int(_kind(inner) in ("string", "large_string"))


def _kind(feature: Any) -> str:
    name = type(feature).__name__
    return str(feature.dtype) if name == "Value" else name


def _check_columns(
    config: DataConfig, key: str, columns: Mapping[str, str | None], features: Mapping[str, Any]
) -> None:
    absent = [name for name in columns.values() if name is not None and name not in features]
    if absent:
        raise FlexvarError(
            f"data source {config.source!r}: its split {key!r} has no column {absent[0]!r}."
        )


def _names(feature: Any) -> list[str] | None:
    """The class names that a column's type has; None where it has none."""
    return list(feature.names) if _kind(feature) == "ClassLabel" else None


def _texts(table: Any, label: str | None, names: Sequence[str] | None) -> Iterator[str]:
    """The text of each row's class, "" for a row without one."""
    if label is None:
        return iter([""] * len(table))
    column = table.select_columns([label]).with_format("arrow")[:].column(label)
    return (_label(value, names) for value in column.to_pylist())


def _label(value: Any, names: Sequence[str] | None) -> str:
    if names is None or not isinstance(value, int):
        return str(int(value)) if isinstance(value, bool) else text_of(value)
    return names[value] if 0 <= value < len(names) else ""


def _undecoded(table: Any, column: str | None) -> Any:
    """A table or stream that gives a picture's bytes as they stand there."""
    features = table.features
    if column is None or features is None or _kind(features[column]) != "Image":
        return table
    return table.cast_column(column, _library().Image(decode=False))


def _features_of(config: DataConfig, table: Any) -> Any:
    """The columns of a stream that does not describe them, by its first row."""
    try:
        return _library().Dataset.from_list(list(table.take(1))).features
    except Exception as error:
        raise _failure(error, config, False) from None


def _encoded(value: Any, root: Path, name: str) -> bytes:
    """The bytes of a picture: those of the row, or of the file it names."""
    if isinstance(value, Image.Image):
        # A stream without a description decodes by itself.
        file = BytesIO()
        value.save(file, format="PNG")
        return file.getvalue()
    path = value
    if isinstance(value, Mapping):
        data, path = value.get("bytes"), value.get("path")
        value = data if data is not None else path
    if isinstance(value, bytes):
        return value
    if not isinstance(path, str) or not path:
        raise FlexvarError(f"{name} holds no picture.")
    try:
        if "://" in path:
            with import_module("fsspec").open(path, "rb") as file:
                return bytes(file.read())
        return (root / path).read_bytes()
    except Exception as error:
        raise FlexvarError(f"{name} cannot be read: {_said(error)}") from None
