"""Aspect-ratio buckets: pictures of any shape at sizes of their own, one size a batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from flexvar.data.sampler import Key, Stream, shuffled
from flexvar.errors import FlexvarError
from flexvar.images.read import ORIENTATION, check_regular

Size = tuple[int, int]
# Longest side of a bucket in shortest ones.
MOST_ELONGATED = 3.0
_ON_ITS_SIDE = (5, 6, 7, 8)


@dataclass(frozen=True, slots=True)
class Buckets:
    """Which size each picture gets. sizes: (height, width) in pixels.

    of: number of the size per picture. kept: share of each picture's area that is not cut off,
    if it is resized just to cover its size.
    """

    sizes: tuple[Size, ...]
    of: tuple[int, ...]
    kept: tuple[float, ...]

    def members(self, bucket: int) -> list[int]:
        """The pictures of a size."""
        return [index for index, own in enumerate(self.of) if own == bucket]

    def lines(self) -> list[str]:
        """How many pictures each size gets, and how much of them is cut off."""
        counts = Counter(self.of)
        result = []
        for bucket in sorted(counts, key=lambda one: self.sizes[one][1] / self.sizes[one][0]):
            kept = [self.kept[index] for index in self.members(bucket)]
            height, width = self.sizes[bucket]
            cut = 100 * (1 - sum(kept) / len(kept))
            result.append(f"{height}x{width}: {counts[bucket]} pictures, {cut:.0f} % cropped")
        return result


def bucket_sizes(size: Size, step: int) -> tuple[Size, ...]:
    """Sizes of about the area of ``size``, their sides multiples of ``step``.

    ``size`` itself comes first. Raises `FlexvarError` if it is no such multiple.
    """
    if size[0] % step or size[1] % step:
        raise FlexvarError(
            f"buckets: {size[0]}x{size[1]} px, the size, are no multiples of {step}; sides are."
        )
    area, found = size[0] * size[1], [size]
    for height in range(step, area // step + 1, step):
        width = max(1, round(area / height / step)) * step
        if max(height, width) <= MOST_ELONGATED * min(height, width):
            found += [one for one in ((height, width), (width, height)) if one not in found]
    return tuple(found)


def sort_in(pictures: Any, size: Size, step: int) -> Buckets:
    """The size of each picture: the one that cuts off least of it."""
    sizes = bucket_sizes(size, step)
    of, kept = [], []
    for index in range(len(pictures)):
        height, width = _size(pictures, index) or size
        shares = [_kept(height / width, h / w) for h, w in sizes]
        best = max(range(len(sizes)), key=lambda one: (round(shares[one], 6), -one))
        of.append(best)
        kept.append(shares[best])
    return Buckets(sizes, tuple(of), tuple(kept))


def bucketed_keys(buckets: Buckets, length: int, stream: Stream, seed: int) -> Iterator[list[Key]]:
    """The keys of each batch: samples in the shuffled order of the epochs, a size at a time.

    A batch of a size comes as soon as there are samples for it on all ranks; what is left at the
    end of an epoch goes into the next one, so that no sample is dropped. It ends with the stream.
    """
    whole = stream.batch_size * stream.world
    waiting: dict[int, list[Key]] = {}
    done = epoch = 0
    while stream.batches is None or done < stream.batches:
        for number in map(int, shuffled(length, seed, epoch)):
            bucket = buckets.of[number % len(buckets.of)]
            queue = waiting.setdefault(bucket, [])
            queue.append(Key(number, epoch, seed))
            if len(queue) < whole:
                continue
            if done >= stream.start:
                first = stream.rank * stream.batch_size
                yield queue[first : first + stream.batch_size]
            waiting[bucket] = []
            done += 1
            if done == stream.batches:
                return
        epoch += 1


def one_size_each(buckets: Buckets, samples: Sequence[Key], batch_size: int) -> Iterator[list[Key]]:
    """Samples in batches of one size each, size after size."""
    by_size: dict[int, list[Key]] = {}
    for key in samples:
        by_size.setdefault(buckets.of[key.number % len(buckets.of)], []).append(key)
    for bucket in sorted(by_size):
        keys = by_size[bucket]
        for first in range(0, len(keys), batch_size):
            yield keys[first : first + batch_size]


def _kept(shape: float, size: float) -> float:
    return min(shape / size, size / shape)


def _size(pictures: Any, index: int) -> Size | None:
    """(height, width) of a picture, upright, by its header if it is a file; None if unreadable."""
    try:
        if not hasattr(pictures, "root"):
            image = pictures.open(index, (1, 1))
            return image.height, image.width
        path = Path(pictures.name(index))
        check_regular(path, str(path))
        with Image.open(path) as image:
            try:
                lies = image.getexif().get(ORIENTATION) in _ON_ITS_SIDE
            except Exception:
                lies = False
            return (image.width, image.height) if lies else (image.height, image.width)
    except Exception:
        # Reading it says what is wrong.
        return None
