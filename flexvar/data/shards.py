"""WebDataset shards: pictures read in order from tar files, here or at an address."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np

from flexvar.data.config import DataConfig, Split
from flexvar.data.folders import USUAL_VAL_FRACTION
from flexvar.data.sampler import random_source, shuffled
from flexvar.data.shard_files import class_text, find, headers, picture, scheme, webdataset
from flexvar.data.sources import Defaults, Raw, choose_classes, no_validation, order_of
from flexvar.errors import FlexvarError

# Samples that wait in memory to be shuffled, beside the shuffled order of the shards.
BUFFER = 1000
ONLY_CLASS = "pictures"


@dataclass(slots=True)
class Inventory:
    """What was counted in local shards: pictures per class text, and how many are held out."""

    train: Counter[str] = field(default_factory=Counter)
    val: Counter[str] = field(default_factory=Counter)


class Shards:
    """The source of WebDataset shards.

    A sample is a picture and, of the same name, its class: ``.cls`` with a number or a name, or
    ``.json`` with "label" or "cls"; without either there is one class. ``classes.txt`` beside
    local shards names numbered classes, one a line. Shards called val..., or in a folder val,
    are for validation; else samples are held out by their names. Local shards are counted by
    their headers; addresses are not, so ``classes`` and ``samples`` have to be given.
    """

    defaults = Defaults()

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        self.train, self.val = find(config.source)
        fraction = config.val_fraction
        fraction = USUAL_VAL_FRACTION if fraction is None else fraction
        self.fraction = 0.0 if self.val else fraction
        if scheme(config.source):
            if config.classes is None or config.samples is None:
                raise FlexvarError(
                    f"data source {config.source!r} cannot be counted beforehand; give its class "
                    "names in order (classes: [...]) and the number of its pictures (samples: N)."
                )
            self.class_names = config.classes
            self.numbers = {name: number for number, name in enumerate(config.classes)}
            self.numbers |= {str(number): number for number in range(len(config.classes))}
            self.counts = Inventory(
                Counter({"": max(1, round(config.samples * (1 - self.fraction)))}),
                Counter({"": max(1, round(config.samples * self.fraction))}),
            )
        else:
            self.counts = self._count()
            found = self.counts.train + self.counts.val
            if not found:
                raise FlexvarError(f"The shards of {config.source!r} hold no picture.")
            self.class_names, self.numbers = self._classes(sorted(found))

    def pictures(self, split: Split) -> ShardPictures:
        """The pictures of a split. Raises `FlexvarError` where there are none."""
        counts = self.counts.train if split == "train" else self.counts.val
        known = {text: n for text, n in counts.items() if text == "" or text in self.numbers}
        if split == "val" and not sum(known.values()):
            raise no_validation(self.config, f"val_fraction is {self.fraction}")
        urls = self.val if split == "val" and self.val else self.train
        held = None if self.val else (split == "val")
        return ShardPictures(urls, sum(known.values()), self.numbers, held, self.fraction)

    def _count(self) -> Inventory:
        counts = Inventory()
        for url in self.train:
            for key, text in headers(url):
                part = counts.val if _held(key, self.fraction) else counts.train
                part[text] += 1
        for url in self.val:
            counts.val.update(text for _, text in headers(url))
        return counts

    def _classes(self, found: list[str]) -> tuple[tuple[str, ...], dict[str, int]]:
        """Class names, and the class number of each text that stands in the shards."""
        if all(text.isdecimal() for text in found):
            path = Path(self.train[0]).parent / "classes.txt"
            size = max(map(int, found)) + 1
            names = path.read_text("utf-8").split("\n") if path.is_file() else []
            names = [name.strip() for name in names if name.strip()]
            if names and len(names) < size:
                raise FlexvarError(
                    f"{path} names {len(names)} classes, but class number {size - 1} occurs; one "
                    "name a line is expected, from class 0 on."
                )
            names = names or [str(number) for number in range(size)]
            chosen = choose_classes(names, self.config.classes)
            numbers = {text: names[int(text)] for text in found}
            return chosen, {t: chosen.index(n) for t, n in numbers.items() if n in chosen}
        chosen = choose_classes([text or ONLY_CLASS for text in found], self.config.classes)
        return chosen, {
            text: chosen.index(text or ONLY_CLASS)
            for text in found
            if (text or ONLY_CLASS) in chosen
        }


class ShardPictures:
    """One split of shards, which can only be read from the beginning on.

    held: whether the held-out samples are wanted, the others, or (None) all. problems: what
    could not be read, name -> reason, grows while reading.
    """

    repeats = 1

    def __init__(
        self,
        urls: list[str],
        length: int,
        numbers: Mapping[str, int],
        held: bool | None,
        fraction: float,
    ) -> None:
        self.urls, self.length, self.numbers = urls, length, numbers
        self.held, self.fraction = held, fraction
        self.problems: dict[str, str] = {}

    def __len__(self) -> int:
        return self.length

    def state(self) -> str:
        """Names, and for local shards sizes and times of change."""
        lines = [f"{self.length} {self.held} {self.fraction} {sorted(self.numbers.items())}"]
        for url in self.urls:
            info = None if scheme(url) else Path(url).stat()
            lines.append(f"{url} {info.st_size} {info.st_mtime_ns}" if info else url)
        return "\n".join(lines)

    def in_order(self) -> Iterator[Raw]:
        """All pictures, in the order in which they stand in the shards."""
        return self._read(self.urls)

    def epoch(self, seed: int, epoch: int) -> Iterator[Raw]:
        """``len(self)`` pictures in the order of an epoch; begun anew should there be fewer."""
        return islice(self._passes(seed, epoch), self.length)

    def _passes(self, seed: int, epoch: int) -> Iterator[Raw]:
        for number in count():
            # Numbers that no other use of (seed, epoch) has: see `Key` and `shuffled`.
            random = random_source(seed, epoch, number, 0, 1)
            order = shuffled(len(self.urls), seed, epoch + (number << 20))
            given = False
            for raw in _through_buffer(self._read([self.urls[i] for i in order]), random):
                given = True
                yield raw
            if not given:
                raise FlexvarError(
                    f"The shards from {self.urls[0]} on gave no picture"
                    + "".join(f"; {why}" for why in self.problems.values())
                )

    def _read(self, urls: list[str]) -> Iterator[Raw]:
        for url in urls:
            for sample in self._samples(url):
                key, suffix = sample["__key__"], picture(sample)
                if suffix is None or self.held not in (None, _held(key, self.fraction)):
                    continue
                text = class_text(sample)
                if text in self.numbers:
                    yield Raw(f"{url}: {key}", self.numbers[text], sample[suffix])

    def _samples(self, url: str) -> Iterator[dict[str, Any]]:
        """The samples of a shard; what comes behind a damage is lost, and noted."""
        tariterators = webdataset()

        def note(error: Exception) -> bool:
            why = str(error.args[0] if error.args else error)
            self.problems[url] = f"{url} cannot be read to its end: {why}"
            return True

        try:
            stream = tariterators.gopen.gopen(url)
        except (OSError, ValueError) as error:
            note(error)
            return
        finished = False
        try:
            files = tariterators.tar_file_expander([{"url": url, "stream": stream}], handler=note)
            yield from tariterators.group_by_keys(files, handler=note)
            finished = True
        finally:
            try:
                stream.close()
            except OSError as error:
                # A download that is broken off complains too, but nothing is wrong then.
                if finished:
                    note(error)


def _through_buffer(samples: Iterator[Raw], random: np.random.Generator) -> Iterator[Raw]:
    """The samples, each exchanged with a random one of those that wait."""
    waiting: list[Raw] = []
    for sample in samples:
        if len(waiting) < BUFFER:
            waiting.append(sample)
            continue
        place = int(random.random() * BUFFER)
        yield waiting[place]
        waiting[place] = sample
    for place in np.argsort(random.random(len(waiting)), kind="stable"):
        yield waiting[place]


def _held(key: str, fraction: float) -> bool:
    return int.from_bytes(order_of(key)[:4], "big") < fraction * 2**32
