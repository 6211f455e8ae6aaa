"""A source, a split and a crop rule -> samples, each determined by its key."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from io import BytesIO
from itertools import islice
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from flexvar.data.buckets import Buckets, sort_in
from flexvar.data.config import DataConfig, Split
from flexvar.data.sampler import Key, random_source
from flexvar.data.sources import BUILT_IN, Pictures, Raw, open_source
from flexvar.data.stream import PictureStream
from flexvar.data.transforms import Rule
from flexvar.errors import FlexvarError
from flexvar.images import open_image, to_tensor

# So many unreadable pictures in a row mean that something else is wrong.
MOST_ATTEMPTS = 64


class Sample(NamedTuple):
    """image_3HW: fp32 in [-1,1]. label: class number."""

    image_3HW: Tensor
    label: int


class Fetched(NamedTuple):
    """Samples of one batch, and what there is to say about their files.

    images_B3HW, labels_B: without those that could not be read and have no replacement.
    unreadable: name -> reason. small: name -> (height, width) of pictures below the crop.
    captions: of each sample.
    """

    images_B3HW: Tensor
    labels_B: Tensor
    unreadable: dict[str, str]
    small: dict[str, tuple[int, int]]
    captions: tuple[tuple[str, ...], ...] = ()


class RawRequest(NamedTuple):
    """A picture of a stream, on its way to the process that decodes it.

    key: None if it is only there to replace another one.
    """

    key: Key | None
    raw: Raw


class Dataset:
    """Samples of one split; made by `open_data`.

    num_classes, class_names: from the data; the null label of a model is num_classes.
    size: (height, width) of every sample. augment: whether crops are random. unreadable: name ->
    reason of every picture that could not be read so far; each is warned about once.
    """

    def __init__(self, config: DataConfig, split: Split, augment: bool) -> None:
        source = open_source(config)
        self.config, self.split, self.augment = config, split, augment
        if (notes := getattr(source, "notes", None)) is not None:
            notes.warn(config.source)
        self.class_names = source.class_names
        self.pictures: Pictures | PictureStream = source.pictures(split)
        crop = config.crop or source.defaults.crop
        flip = source.defaults.flip if config.flip is None else config.flip
        self.rule = Rule(
            size=config.height_width,
            crop=crop if augment else "middle",
            resize=config.resize or source.defaults.resize,
            crop_range=config.crop_range,
            flip=flip and augment,
            recolor=config.recolor if augment else 0.0,
        )
        self.buckets = self._buckets()
        self.unreadable: dict[str, str] = {}
        self._tells_small = config.source not in BUILT_IN
        self._kept: dict[int, Image.Image] = {}
        self._room = config.cache_mb * 2**20

    def _buckets(self) -> Buckets | None:
        if self.config.buckets is None:
            return None
        if isinstance(self.pictures, PictureStream):
            raise FlexvarError(
                "buckets: pictures of a stream, as in shards, have shapes that are not known "
                "beforehand; unpack them into a folder (hf: leave out streaming), or leave the "
                "option out."
            )
        return sort_in(self.pictures, self.config.height_width, self.config.buckets)

    def _rule(self, index: int) -> Rule:
        """The rule of a picture: its own size where there are buckets."""
        if self.buckets is None:
            return self.rule
        return replace(self.rule, size=self.buckets.sizes[self.buckets.of[index]])

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.class_names)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of every sample in pixels; with buckets, of those of that shape."""
        return self.rule.size

    @property
    def streams(self) -> bool:
        """Whether samples come in the order of a stream only, as those of shards."""
        return isinstance(self.pictures, PictureStream)

    @property
    def repeats(self) -> int:
        """Samples per picture in one epoch."""
        return self.pictures.repeats if self.augment else 1

    def __len__(self) -> int:
        """Samples in one epoch."""
        return len(self.pictures) * self.repeats

    def __getitem__(self, key: int | Key) -> Sample:
        """The sample of a key; a number is that of seed 0 in epoch 0.

        Without random crops a picture that cannot be read raises a `FlexvarError`; with them
        another one takes its place. From a stream it takes reading up to there.
        """
        key = Key(key) if isinstance(key, int) else key
        number = key.number + len(self) if key.number < 0 else key.number
        if not 0 <= number < len(self):
            raise IndexError(f"sample {key.number} of {len(self)}")
        key = key._replace(number=number)
        request: Key | RawRequest = key
        if isinstance(self.pictures, PictureStream):
            raw = next(islice(self.pictures.in_order(), number, None), None)
            if raw is None:
                raise FlexvarError(f"The source holds fewer than {number + 1} pictures.")
            request = RawRequest(key, raw)
        fetched = self.fetch([request])
        self.note(fetched)
        if len(fetched.labels_B) == 0:
            raise FlexvarError(next(iter(fetched.unreadable.values())))
        return Sample(fetched.images_B3HW[0], int(fetched.labels_B[0]))

    def label(self, index: int) -> int:
        """The class number of a sample, without opening its picture; not for streams."""
        assert not isinstance(self.pictures, PictureStream)
        return self.pictures.label(index % len(self.pictures))

    def captions(self, index: int) -> tuple[str, ...]:
        """What a sample may be called, without opening its picture; not for streams."""
        assert not isinstance(self.pictures, PictureStream)
        known = getattr(self.pictures, "captions", None)
        return () if known is None else tuple(known(index % len(self.pictures)))

    def fingerprint(self) -> str:
        """A text that changes when the pictures or the rule that crops them do."""
        # What is not asked for is no option, so that what was made before stays valid.
        later = ("image_column", "label_column", "caption_column", "buckets")
        unnamed = {key for key in later if getattr(self.config, key) is None}
        options = self.config.model_dump(exclude={"cache_mb", *unnamed})
        parts = (options, self.class_names, self.split, self.rule, self.pictures.state())
        return hashlib.sha256(repr(parts).encode("utf-8", "surrogateescape")).hexdigest()[:32]

    def fetch(self, requests: Sequence[Key | RawRequest]) -> Fetched:
        """The samples asked for; changes nothing that a later one depends on."""
        images, labels, captions = [], [], []
        unreadable: dict[str, str] = {}
        small: dict[str, tuple[int, int]] = {}
        for place, request in enumerate(requests):
            key = request.key if isinstance(request, RawRequest) else request
            if key is None:
                continue
            found = self._sample(key, requests, place, unreadable, small)
            if found is not None:
                sample, called = found
                images.append(sample.image_3HW)
                labels.append(sample.label)
                captions.append(called)
            elif self.augment:
                why = "".join(f"\n  {reason}" for reason in list(unreadable.values())[:5])
                raise FlexvarError(
                    f"No picture of {self.config.source!r} could be read in {MOST_ATTEMPTS} "
                    f"attempts. Check it with: flexvar data {self.config.source}{why}"
                )
        height, width = self.size
        images_B3HW = torch.stack(images) if images else torch.empty(0, 3, height, width)
        labels_B = torch.tensor(labels, dtype=torch.int64)
        return Fetched(images_B3HW, labels_B, unreadable, small, tuple(captions))

    def note(self, fetched: Fetched) -> None:
        """Remember what could not be read, and warn about each file once."""
        problems = dict(fetched.unreadable)
        if isinstance(self.pictures, PictureStream):
            problems |= self.pictures.problems
        for name, reason in problems.items():
            if name not in self.unreadable:
                self.unreadable[name] = reason
                warnings.warn(
                    f"Left out, as it cannot be read ({len(self.unreadable)} so far): {reason}",
                    stacklevel=2,
                )
        if fetched.small and self._tells_small:
            self._tells_small = False
            name, (height, width) = next(iter(fetched.small.items()))
            warnings.warn(
                f"{name} has {height}x{width} pixels, less than the {self.size[0]}x{self.size[1]} "
                "of a sample; it and others like it are enlarged and look soft.",
                stacklevel=2,
            )

    def _sample(
        self,
        key: Key,
        requests: Sequence[Key | RawRequest],
        place: int,
        unreadable: dict[str, str],
        small: dict[str, tuple[int, int]],
    ) -> tuple[Sample, tuple[str, ...]] | None:
        for attempt in range(MOST_ATTEMPTS if self.augment else 1):
            random = random_source(key.seed, key.epoch, key.number, attempt)
            try:
                # A stream has no other pictures at hand than those that came together.
                request = requests[(place + attempt) % len(requests)]
                if isinstance(request, RawRequest):
                    rule = self.rule
                    prepared, label = self._decode(request.raw, small), request.raw.label
                    captions = request.raw.captions
                else:
                    assert not isinstance(self.pictures, PictureStream)
                    index = key.number % len(self.pictures)
                    if attempt:
                        index = self._another(index, random.random())
                    prepared, label = self._prepared(index, small), self.pictures.label(index)
                    captions, rule = self.captions(index), self._rule(index)
            except UnreadableError as error:
                unreadable[error.name] = error.reason
                continue
            image = rule.cut(prepared, random if self.augment else None)
            return Sample(to_tensor(image), label), captions
        return None

    def _another(self, index: int, drawn: float) -> int:
        """A picture in place of one that cannot be read, of the same size."""
        if self.buckets is None:
            assert not isinstance(self.pictures, PictureStream)
            return int(drawn * len(self.pictures))
        members = self.buckets.members(self.buckets.of[index])
        return members[int(drawn * len(members))]

    def _prepared(self, index: int, small: dict[str, tuple[int, int]]) -> Image.Image:
        if (kept := self._kept.get(index)) is not None:
            return kept
        assert not isinstance(self.pictures, PictureStream)
        name = self.pictures.name(index)
        try:
            image = self.pictures.open(index, self._rule(index).enough)
        except FlexvarError as error:
            raise UnreadableError(name, str(error)) from None
        prepared = self._prepare(image, name, small, self._rule(index))
        self._room -= 3 * prepared.width * prepared.height
        if self._room >= 0:
            self._kept[index] = prepared
        return prepared

    def _decode(self, raw: Raw, small: dict[str, tuple[int, int]]) -> Image.Image:
        try:
            image = open_image(BytesIO(raw.data), enough=self.rule.enough, name=raw.name)
        except FlexvarError as error:
            raise UnreadableError(raw.name, str(error)) from None
        return self._prepare(image, raw.name, small, self.rule)

    def _prepare(
        self, image: Image.Image, name: str, small: dict[str, tuple[int, int]], rule: Rule
    ) -> Image.Image:
        if image.height < rule.size[0] or image.width < rule.size[1]:
            small[name] = (image.height, image.width)
        return rule.prepare(image)

    def __getstate__(self) -> Mapping[str, Any]:
        # A process that decodes fills its own cache; sending this one along costs more.
        return {**self.__dict__, "_kept": {}, "_room": self.config.cache_mb * 2**20}


class UnreadableError(Exception):
    """A picture that cannot be had: its name and the reason, a whole sentence."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(reason)
        self.name, self.reason = name, reason


def open_data(
    config: DataConfig, split: Split = "train", *, augment: bool | None = None
) -> Dataset:
    """The samples of a split.

    augment: whether crops and flips are random; in training they are unless told otherwise, in
    validation they are not. Without, a sample is the middle of its picture.
    Raises `FlexvarError` for a source that is not there, is empty, or has no such split.
    """
    return Dataset(config, split, split == "train" if augment is None else augment)
