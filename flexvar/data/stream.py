"""Pictures that can only be read from the beginning on, in parts such as shards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from itertools import count, islice

import numpy as np

from flexvar.data.sampler import random_source, shuffled
from flexvar.data.sources import Raw
from flexvar.errors import FlexvarError

# Samples that wait in memory to be shuffled, beside the shuffled order of the parts.
BUFFER = 1000


class PictureStream(ABC):
    """One split of a source that is read in order.

    title: what it is called in messages. parts: in how many pieces it comes, whose order is
    shuffled. length: pictures in one epoch. problems: what could not be read, name -> reason;
    grows while reading.
    """

    repeats = 1

    def __init__(self, title: str, parts: int, length: int) -> None:
        self.title, self.parts, self.length = title, parts, length
        self.problems: dict[str, str] = {}

    @abstractmethod
    def read(self, order: Iterable[int]) -> Iterator[Raw]:
        """The pictures of parts, in the order of those."""

    @abstractmethod
    def state(self) -> str:
        """A text that changes with the pictures."""

    def __len__(self) -> int:
        return self.length

    def in_order(self) -> Iterator[Raw]:
        """All pictures, in the order in which they stand there."""
        return self.read(range(self.parts))

    def epoch(self, seed: int, epoch: int) -> Iterator[Raw]:
        """``len(self)`` pictures in the order of an epoch; begun anew should there be fewer."""
        return islice(self._passes(seed, epoch), self.length)

    def _passes(self, seed: int, epoch: int) -> Iterator[Raw]:
        for number in count():
            # Numbers that no other use of (seed, epoch) has: see `Key` and `shuffled`.
            random = random_source(seed, epoch, number, 0, 1)
            order = map(int, shuffled(self.parts, seed, epoch + (number << 20)))
            given = False
            for raw in _through_buffer(self.read(order), random):
                given = True
                yield raw
            if not given:
                raise FlexvarError(
                    f"{self.title} gave no picture"
                    + "".join(f"; {why}" for why in self.problems.values())
                )


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
