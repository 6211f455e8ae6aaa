"""Where pictures come from: what every kind of source gives, and the choice between them."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from PIL import Image

from flexvar.data.config import DataConfig, Split, names_data_set
from flexvar.errors import FlexvarError
from flexvar.text import printable

if TYPE_CHECKING:
    from flexvar.data.stream import PictureStream

BUILT_IN = ("photos", "digits", "emoji", "emoji-colors")


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a source suggests for the options that a config leaves out."""

    crop: Literal["random", "resized"] = "random"
    resize: float = 1.125
    flip: bool = True


class Raw(NamedTuple):
    """A picture of a shard as it stands there: name, class number, encoded bytes, captions."""

    name: str
    label: int
    data: bytes
    captions: tuple[str, ...] = ()


class Pictures(Protocol):
    """One split of a source. ``repeats``: training samples per picture in one epoch.

    ``open`` gives it upright in RGB, and may give it smaller than it is stored, but not below
    ``enough`` (height, width). It raises a `FlexvarError` for one that cannot be read.
    ``state`` is a text that changes with the pictures. Optional: ``captions(index)``, what a
    picture may be called.
    """

    repeats: int

    def __len__(self) -> int: ...

    def name(self, index: int) -> str: ...

    def label(self, index: int) -> int: ...

    def open(self, index: int, enough: tuple[int, int]) -> Image.Image: ...

    def state(self) -> str: ...


class Source(Protocol):
    """Pictures with classes, in one or two splits."""

    class_names: tuple[str, ...]
    defaults: Defaults

    def pictures(self, split: Split) -> Pictures | PictureStream: ...


def open_source(config: DataConfig) -> Source:
    """The source that a config names. Raises `FlexvarError` where there is none."""
    from flexvar.data import builtin, emoji, folders, hub_sets, shards, tables
    from flexvar.data.shard_files import names_shards

    if config.source in BUILT_IN and Path(config.source).is_dir():
        warnings.warn(
            f"{config.source!r} means the built-in set; the folder here of that name is "
            f"./{config.source}.",
            stacklevel=2,
        )
    if config.source == "photos":
        return builtin.Photos(config)
    if config.source == "digits":
        return builtin.Digits(config)
    if config.source == "emoji":
        return emoji.Emoji(config)
    if config.source == "emoji-colors":
        return emoji.ColoredEmoji(config)
    if names_data_set(config.source):
        return hub_sets.open_data_set(config)
    if names_shards(config.source):
        return shards.Shards(config)
    path = Path(config.source).expanduser()
    if not path.exists():
        near = get_close_matches(config.source, BUILT_IN, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise FlexvarError(
            f"data source {config.source!r}: there is no such folder or file, and the built-in "
            f"sets are {', '.join(BUILT_IN)}. A data set of the hub is written hf:OWNER/NAME.{hint}"
        )
    if path.is_file() and path.suffix.lower() in (".zip", *tables.TABLES):
        return tables.Zip(config) if path.suffix.lower() == ".zip" else tables.Table(config)
    if path.suffix.lower() in hub_sets.FORMATS:
        raise FlexvarError(
            f"data source {config.source!r} is read by the library datasets: hf:{config.source}"
        )
    if not path.is_dir():
        raise FlexvarError(
            f"data source {config.source!r} is a file; name the folder that holds the pictures."
        )
    return folders.Folder(config)


def choose_classes(found: Sequence[str], wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The classes to use, in order: those wanted, or all. Raises for one that is not there."""
    if wanted is None:
        return tuple(found)
    wanted = [printable(name) for name in wanted]
    for name in wanted:
        if name not in found:
            near = get_close_matches(name, found, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            some = ", ".join(found[:20]) + (", ..." if len(found) > 20 else "")
            raise FlexvarError(f"classes: there is no class {name!r}.{hint} Classes: {some}.")
    return tuple(wanted)


def order_of(name: str) -> bytes:
    """A key that sorts names in an order that looks random and never changes."""
    return hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()


def held_out(name: str, fraction: float) -> bool:
    """Whether a sample is held out of training; follows from its name alone."""
    return int.from_bytes(order_of(name)[:4], "big") < fraction * 2**32


def no_validation(config: DataConfig, why: str) -> FlexvarError:
    """The error for a source without validation pictures."""
    return FlexvarError(
        f"data source {config.source!r} has no validation pictures: {why}. Raise val_fraction, "
        "add pictures, or put some into a val folder beside train."
    )
