"""Which sample comes when: positions of an endless stream, shared out between ranks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from flexvar.errors import FlexvarError

# Apart from the randomness of single samples, which has the same seed and epoch in its key.
_ORDER = 2**32 - 1


class Key(NamedTuple):
    """What determines a sample: its number in the dataset, the epoch, and the seed."""

    number: int
    epoch: int = 0
    seed: int = 0


def random_source(*key: int) -> np.random.Generator:
    """A generator determined by non-negative numbers alone; use its ``random()`` only.

    Only those doubles and permutations are drawn, whose streams NumPy keeps between versions.
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def shuffled(count: int, seed: int, epoch: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """The numbers 0 ... count-1 in the order of an epoch, (count,) int64."""
    # argsort of doubles, as `permutation` may change between NumPy's versions.
    return np.argsort(random_source(seed, epoch, _ORDER).random(count), kind="stable")


@dataclass(frozen=True, slots=True)
class Stream:
    """Batches of (epoch, position in it) that one rank consumes, from batch ``start`` on.

    The positions of all epochs follow each other without a gap, so no sample is dropped and no
    batch is short; a batch may reach over the end of an epoch. Global batch t is the positions
    from ``t * batch_size * world`` on, cut into one slice per rank: the batches of all ranks,
    joined, are those of one process with ``world`` times the batch size. With ``epochs`` it
    ends before the first batch that would need more.
    Raises `FlexvarError` for numbers that cannot be.
    """

    length: int
    batch_size: int
    start: int = 0
    rank: int = 0
    world: int = 1
    epochs: int | None = None

    def __post_init__(self) -> None:
        for name, least in (("length", 1), ("batch_size", 1), ("start", 0), ("world", 1)):
            if getattr(self, name) < least:
                raise FlexvarError(f"{name}: got {getattr(self, name)}; expected {least} or more.")
        if not 0 <= self.rank < self.world:
            raise FlexvarError(
                f"rank: got {self.rank}; with {self.world} processes expected 0 to "
                f"{self.world - 1}."
            )
        if self.epochs is not None and self.batches == 0:
            raise FlexvarError(
                f"{self.epochs} epochs of {self.length} samples do not fill one batch of "
                f"{self.batch_size} on {self.world} processes; take a smaller batch_size or more "
                "epochs."
            )

    @property
    def batches(self) -> int | None:
        """Batches from the very beginning to the end; None without an end."""
        if self.epochs is None:
            return None
        return self.epochs * self.length // (self.batch_size * self.world)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        step = self.start
        while self.batches is None or step < self.batches:
            first = (step * self.world + self.rank) * self.batch_size
            yield [divmod(first + number, self.length) for number in range(self.batch_size)]
            step += 1


def keys(stream: Stream, seed: int) -> Iterator[list[Key]]:
    """The keys of each batch: positions looked up in the shuffled order of their epoch."""
    order, of_epoch = None, -1
    for positions in stream:
        batch = []
        for epoch, position in positions:
            if order is None or epoch != of_epoch:
                order, of_epoch = shuffled(stream.length, seed, epoch), epoch
            batch.append(Key(int(order[position]), epoch, seed))
        yield batch
