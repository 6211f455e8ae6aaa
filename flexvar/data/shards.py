"""WebDataset shards: pictures read in order from tar files, here or at an address."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flexvar.data.config import DataConfig, Split
from flexvar.data.folders import USUAL_VAL_FRACTION
from flexvar.data.names import read_class_names
from flexvar.data.notes import Notes
from flexvar.data.shard_files import find, opened, scheme
from flexvar.data.shard_samples import Entry, Index, entries, take_stock
from flexvar.data.sources import Defaults, Raw, choose_classes, held_out, no_validation
from flexvar.data.stream import PictureStream
from flexvar.data.tar import DamagedError, Tar
from flexvar.errors import FlexvarError

ONLY_CLASS = "pictures"
# So many classes are taken as they are numbered; of more, one in MOST_GAPS has to have a picture:
# a number by mistake would make classes until the memory is full.
FEW_CLASSES, MOST_GAPS = 65536, 4


@dataclass(slots=True)
class Inventory:
    """What was counted in local shards: pictures per class text, in training and held out.

    indices: what reading each shard has to know. problems: what is wrong with which.
    """

    train: Counter[str] = field(default_factory=Counter)
    val: Counter[str] = field(default_factory=Counter)
    indices: dict[str, Index] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)


class Shards:
    """The source of WebDataset shards.

    A sample is a picture and, of the same name, its class: ``.cls`` with a number or a name, or
    ``.json`` with "label" or "cls"; without either there is one class. A picture without a label
    among others with one is left out. Its captions are the lines of ``.txt``, or "caption" or
    "captions" of ``.json``. ``classes.txt`` beside local shards names numbered classes,
    one a line. Shards called val..., or in a folder val, are for validation; else samples are
    held out by their names. Local shards are counted by their headers; addresses are not, so
    ``classes`` and ``samples`` have to be given.

    notes: what is left out, and why.
    """

    defaults = Defaults()

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        self.notes = Notes()
        self.train, self.val = find(config.source)
        fraction = config.val_fraction
        fraction = USUAL_VAL_FRACTION if fraction is None else fraction
        self.fraction = 0.0 if self.val else fraction
        self.counts = Inventory()
        if scheme(config.source):
            if config.classes is None or config.samples is None:
                raise FlexvarError(
                    f"data source {config.source!r} cannot be counted beforehand; give its class "
                    "names in order (classes: [...]) and the number of its pictures (samples: N)."
                )
            self.class_names = config.classes
            self.numbers = {name: number for number, name in enumerate(config.classes)}
            self.numbers |= {str(number): number for number in range(len(config.classes))}
            held = round(config.samples * self.fraction)
            self.lengths = {
                "train": max(1, round(config.samples * (1 - self.fraction))),
                "val": max(1, held),
            }
        else:
            self._count()
            found = self.counts.train + self.counts.val
            if not found:
                raise FlexvarError(
                    f"The shards of {config.source!r} hold no picture."
                    + "".join(
                        f" {line}."
                        for line in [*self.counts.problems.values(), *self.notes.lines()][:5]
                    )
                )
            self.class_names, self.numbers = self._classes(found)
            self.lengths = {
                split: sum(n for text, n in counts.items() if text in self.numbers)
                for split, counts in (("train", self.counts.train), ("val", self.counts.val))
            }

    def pictures(self, split: Split) -> ShardPictures:
        """The pictures of a split. Raises `FlexvarError` where there are none."""
        if split == "val" and not self.lengths[split]:
            raise no_validation(self.config, f"val_fraction is {self.fraction}")
        urls = self.val if split == "val" and self.val else self.train
        held = None if self.val else (split == "val")
        length = self.lengths[split]
        return ShardPictures(urls, length, self.numbers, held, self.fraction, self.counts)

    def _count(self) -> None:
        for urls, own in ((self.train, None), (self.val, self.counts.val)):
            for url in urls:
                try:
                    with opened(url) as file:
                        found, index, damage = take_stock(Tar(file), self.notes)
                except DamagedError as error:
                    self.counts.problems[url] = _unreadable(url, error)
                    continue
                if damage is not None:
                    self.counts.problems[url] = _unreadable(url, damage)
                self.counts.indices[url] = index
                for key, text in found:
                    held = self.counts.val if held_out(key, self.fraction) else self.counts.train
                    (held if own is None else own)[text] += 1
                self.notes.add(
                    "pictures whose label does not stand beside them: found in their shard",
                    url,
                    count=len(index.loose),
                    loss=False,
                )
                self.notes.add(
                    "names that agree up to their first dot and are samples of their own",
                    min(index.split, default=""),
                    count=len(index.split),
                    loss=False,
                )

    def _classes(self, found: Counter[str]) -> tuple[tuple[str, ...], dict[str, int]]:
        """Class names, and the class number of each text that stands in the shards."""
        texts = sorted(found)
        wanted = self.config.classes
        if "" in found and len(found) > 1 and ONLY_CLASS not in (wanted or ()):
            why = "pictures without a label, among others with one: left out"
            self.notes.add(why, count=found[""])
            texts.remove("")
        if values := class_numbers(texts):
            for text in set(texts) - set(values):
                why = "pictures with a number below zero as their label: left out"
                self.notes.add(why, text, count=found[text])
            names = self._numbered(values)
            chosen = choose_classes(names, wanted)
            numbers = {text: names[number] for text, number in values.items()}
            return chosen, {t: chosen.index(n) for t, n in numbers.items() if n in chosen}
        if any(text.isdecimal() for text in texts) and not all(text.isdecimal() for text in texts):
            words = [text for text in texts if not text.isdecimal()]
            why = "labels that are words, among others that are numbers: all are taken as names"
            self.notes.add(why, words[0], count=sum(found[text] for text in words))
        chosen = choose_classes([text or ONLY_CLASS for text in texts], wanted)
        return chosen, {
            text: chosen.index(text or ONLY_CLASS)
            for text in texts
            if (text or ONLY_CLASS) in chosen
        }

    def _numbered(self, values: Mapping[str, int]) -> list[str]:
        """The names of numbered classes, from 0 on."""
        size = max(values.values()) + 1
        if size > FEW_CLASSES and size > MOST_GAPS * len(values):
            raise FlexvarError(
                f"data source {self.config.source!r}: {size - 1} occurs as a class number, but "
                f"there are only {len(values)} different ones. Numbers of classes count from 0 "
                "on; if these are names, write them with a letter in front."
            )
        path = Path(self.train[0]).parent / "classes.txt"
        names = read_class_names(path) if path.is_file() else []
        if names and len(names) < size:
            raise FlexvarError(
                f"{path} names {len(names)} classes, but class number {size - 1} occurs; one "
                "name a line is expected, from class 0 on."
            )
        if absent := size - len(set(values.values())):
            self.notes.add("class numbers without a picture", count=absent, loss=False)
        return names or [str(number) for number in range(size)]


def class_numbers(texts: list[str]) -> dict[str, int]:
    """The class number of each text, if all are numbers; else none at all.

    Beside whole numbers ``2.0`` is one too, and ``-1`` is none but no name either.
    """
    if not any(text.isdecimal() for text in texts):
        return {}
    values: dict[str, int] = {}
    for text in texts:
        found = re.fullmatch(r"(-?)(\d+)(\.0*)?", text)
        if found is None:
            return {}
        if not found[1]:
            # Python refuses to read very long ones.
            values[text] = int(found[2]) if len(found[2]) < 19 else 10**18
    return values


class ShardPictures(PictureStream):
    """One split of shards.

    held: whether the held-out samples are wanted, the others, or (None) all.
    """

    def __init__(
        self,
        urls: list[str],
        length: int,
        numbers: Mapping[str, int],
        held: bool | None,
        fraction: float,
        counts: Inventory,
    ) -> None:
        super().__init__(f"The shards from {urls[0]} on", len(urls), length)
        self.urls, self.numbers = urls, numbers
        self.held, self.fraction, self.indices = held, fraction, counts.indices
        self.problems = dict(counts.problems)

    def state(self) -> str:
        """Names, and for local shards sizes and times of change."""
        lines = [f"{self.length} {self.held} {self.fraction} {sorted(self.numbers.items())}"]
        for url in self.urls:
            info = None if scheme(url) else Path(url).stat()
            lines.append(f"{url} {info.st_size} {info.st_mtime_ns}" if info else url)
        return "\n".join(lines)

    def read(self, order: Iterable[int]) -> Iterator[Raw]:
        """The pictures of shards, in the order of those."""
        for url in (self.urls[part] for part in order):
            notes = Notes()
            for key, text, data, captions in self._entries(url, notes):
                if self.held not in (None, held_out(key, self.fraction)):
                    continue
                if text in self.numbers:
                    yield Raw(f"{url}: {key}", self.numbers[text], data, captions)
                elif scheme(url):
                    why = f"pictures with {'another' if text else 'no'} label: left out"
                    notes.add(why, f"{key} {text}")
            # What stands in files was counted before.
            if scheme(url) and (lines := notes.lines(losses=True)):
                self.problems[f"{url} notes"] = f"{url}: {'; '.join(lines)}"

    def _entries(self, url: str, notes: Notes) -> Iterator[Entry]:
        """The samples of a shard; what comes behind a damage is lost, and noted."""
        try:
            with opened(url) as file:
                yield from entries(Tar(file), self.indices.get(url, Index()), notes)
        except DamagedError as error:
            self.problems[url] = _unreadable(url, error)


def _unreadable(url: str, error: DamagedError) -> str:
    return f"{url} cannot be read to its end: {error}"
