"""What a source holds: pictures per class, their sizes, and what cannot be read."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import get_args

from PIL import Image

from flexvar.data.config import DataConfig, Split
from flexvar.data.dataset import Dataset, Sample, open_data
from flexvar.data.folders import Folder
from flexvar.data.loader import batches
from flexvar.data.shard_files import names_shards
from flexvar.data.sources import BUILT_IN, Pictures, Raw, Source, open_source
from flexvar.data.stream import PictureStream
from flexvar.errors import FlexvarError
from flexvar.images import open_image, sheets, to_pil

# Larger than any picture: nothing is decoded at a fraction of its size.
ALL = (2**30, 2**30)
MOST_ROWS = 24
COLUMNS = 8


@dataclass(slots=True)
class Survey:
    """The report on a source.

    counts: readable pictures per class and split. sizes: (height, width) of each, upright.
    unreadable: reasons, each with the name of its file. left_out: files per suffix that are no
    pictures. strays: pictures that belong to no class. notes: what else is left out, and why.
    buckets: how many training pictures get each size, where the config has buckets.
    """

    class_names: tuple[str, ...]
    counts: dict[Split, Counter[int]] = field(default_factory=dict)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    strays: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    buckets: list[str] = field(default_factory=list)

    def small(self, size: tuple[int, int]) -> int:
        """How many pictures are smaller than a sample of (height, width), and get enlarged."""
        return sum(height < size[0] or width < size[1] for height, width in self.sizes)

    @property
    def empty(self) -> list[str]:
        """Classes without a readable picture to train on."""
        train = self.counts["train"]
        return [name for number, name in enumerate(self.class_names) if not train[number]]


def survey(config: DataConfig, advance: Callable[[int], None] = lambda total: None) -> Survey:
    """The report on a source; every picture is decoded.

    advance: called after each picture with the number of all in its split.
    Raises `FlexvarError` for a source that is not there or holds no picture.
    """
    source = _unchecked(config)
    result = Survey(source.class_names)
    if isinstance(source, Folder):
        result.left_out, result.strays = source.listing.left_out, source.listing.strays
    if (notes := getattr(source, "notes", None)) is not None:
        result.notes = notes.lines()
    for split in get_args(Split):
        counts = result.counts[split] = Counter()
        try:
            pictures = source.pictures(split)
        except FlexvarError:
            continue
        for label, decode in _all(pictures):
            try:
                image = decode()
            except FlexvarError as error:
                result.unreadable.append(str(error))
            else:
                counts[label] += 1
                result.sizes.append((image.height, image.width))
            advance(len(pictures))
        if isinstance(pictures, PictureStream):
            result.unreadable += [
                why for why in pictures.problems.values() if why not in result.unreadable
            ]
    if config.buckets is not None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            sorted_in = open_data(config, "train").buckets
        result.buckets = [] if sorted_in is None else sorted_in.lines()
    return result


def sheet(config: DataConfig, found: Survey) -> Image.Image:
    """A contact sheet of training samples, a row per class, cropped as in training.

    Of many classes, some that are spread evenly. Raises `FlexvarError` if no picture is readable.
    """
    empty = set(found.empty)
    names = [name for name in found.class_names if name not in empty]
    if not names:
        raise FlexvarError(
            f"{config.source}: no picture can be read, so there is no contact sheet."
        )
    if empty:
        config = config.model_copy(update={"classes": tuple(names)})
    shown = [n * len(names) // MOST_ROWS for n in range(MOST_ROWS)]
    shown = list(range(len(names))) if len(names) <= MOST_ROWS else shown
    rows: dict[int, list[Image.Image]] = {label: [] for label in shown}
    with warnings.catch_warnings():
        # The survey says already what there is to warn about.
        warnings.simplefilter("ignore")
        for image_3HW, label in _samples(open_data(config, "train"), shown):
            if label in rows and len(rows[label]) < COLUMNS:
                rows[label].append(to_pil(image_3HW / 2 + 0.5))
            if all(len(pictures) == COLUMNS for pictures in rows.values()):
                break
    scale = max(1, 64 // max(config.height_width))
    return sheets.sheet(
        [rows[label] for label in shown], names=[names[label] for label in shown], scale=scale
    )


def _samples(dataset: Dataset, shown: list[int]) -> Iterator[Sample]:
    """Samples among which each class shown has `COLUMNS`, if there are so many."""
    if dataset.streams:
        # Enough to meet every class of a fair mixture; a rare one may have fewer pictures.
        most = min(len(dataset), 4 * COLUMNS * dataset.num_classes)
        for batch in islice(batches(dataset, batch_size=1, seed=0), most):
            yield Sample(batch.images_B3HW[0], int(batch.labels_B[0]))
        return
    of_class: dict[int, list[int]] = {label: [] for label in range(dataset.num_classes)}
    for number in range(len(dataset)):
        of_class[dataset.label(number)].append(number)
    for label in shown:
        found = of_class[label]
        count = min(COLUMNS, len(found))
        yield from (dataset[found[n * len(found) // count]] for n in range(count))


def _unchecked(config: DataConfig) -> Source:
    """The source, without the checks that training makes: this is where to see what is wrong."""
    if config.source not in BUILT_IN and not names_shards(config.source):
        path = Path(config.source).expanduser()
        if path.is_dir():
            return Folder(config, check=False)
    return open_source(config)


def _all(
    pictures: Pictures | PictureStream,
) -> Iterator[tuple[int, Callable[[], Image.Image]]]:
    """Class number of each picture, and what decodes it."""
    if isinstance(pictures, PictureStream):
        for raw in pictures.in_order():
            yield raw.label, partial(_decode, raw)
    else:
        for index in range(len(pictures)):
            yield pictures.label(index), partial(pictures.open, index, ALL)


def _decode(raw: Raw) -> Image.Image:
    return open_image(BytesIO(raw.data), name=raw.name)
