"""Datasets -> batches: an endless stream for training, one ordered pass for validation."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from flexvar.data.buckets import bucketed_keys, one_size_each
from flexvar.data.dataset import Dataset, Fetched, RawRequest
from flexvar.data.sampler import Key, Stream, keys
from flexvar.data.sources import Raw
from flexvar.data.stream import PictureStream
from flexvar.data.workers import serve, signals_held
from flexvar.errors import FlexvarError
from flexvar.ops.precision import send

Requests = Sequence[Key | RawRequest]
# Pictures of a stream to choose a replacement from, should one not be readable.
ENOUGH_TO_REPLACE = 8


class Batch(NamedTuple):
    """images_B3HW: fp32 in [-1,1]. labels_B: int64 class numbers.

    captions: what each picture may be called, all of its captions; () of one that has none.
    """

    images_B3HW: Tensor
    labels_B: Tensor
    captions: tuple[tuple[str, ...], ...] = ()

    def to(self, device: torch.device) -> Batch:
        """The same with the pictures on a device; what they are of stays on the host."""
        return self._replace(images_B3HW=send(self.images_B3HW, device))


def batches(
    dataset: Dataset,
    *,
    batch_size: int,
    seed: int,
    start: int = 0,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    epochs: int | None = None,
    context: str | None = None,
) -> Iterator[Batch]:
    """Batches of this rank's samples, without end unless ``epochs`` is given.

    batch_size: samples per rank; every batch has that many. start: batches already consumed by
    each rank. rank, world: which part of every global batch of ``batch_size * world`` samples
    this process gets; within an epoch no sample comes twice on any rank. workers: processes
    that decode ahead; 0 decodes in this one. context: how they start, "fork", "spawn" or
    "forkserver"; the platform's way unless given. Streams are read by every rank from the
    beginning of the epoch on, and decoded only where they are its own.
    Raises `FlexvarError`, at once, for numbers that cannot be, and later if no picture can be
    read.
    """
    if seed < 0:
        raise FlexvarError(f"seed: got {seed}; expected 0 or more.")
    stream = Stream(len(dataset), batch_size, start, rank, world, epochs)
    if isinstance(dataset.pictures, PictureStream):
        requests = _from_stream(dataset.pictures, stream, seed)
    elif dataset.buckets is not None:
        requests = bucketed_keys(dataset.buckets, len(dataset), stream, seed)
    else:
        requests = keys(stream, seed)
    return _batches(dataset, requests, workers, context)


def ordered_batches(
    dataset: Dataset,
    *,
    batch_size: int,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
    limit: int | None = None,
    context: str | None = None,
) -> Iterator[Batch]:
    """One pass over all samples in order, or over ``limit`` of them.

    Rank r gets samples r, r + world, ... of those; its last batch may be smaller, pictures that
    cannot be read are left out, and ranks may differ by one batch. limit: spread evenly over the
    samples, so over the classes too; of streams the first ones.
    Raises `FlexvarError`, at once, for numbers that cannot be.
    """
    Stream(len(dataset), batch_size, 0, rank, world)
    if limit is not None and limit < 1:
        raise FlexvarError(f"limit: got {limit}; expected at least 1 sample.")
    total = len(dataset) if limit is None else min(limit, len(dataset))
    if isinstance(dataset.pictures, PictureStream):
        raws = islice(dataset.pictures.in_order(), rank, total, world)
        samples: Iterator[Key | RawRequest] = (
            RawRequest(Key(rank + number * world), raw) for number, raw in enumerate(raws)
        )
    else:
        samples = (Key(n * len(dataset) // total) for n in range(rank, total, world))
        if dataset.buckets is not None:
            own = [Key(n * len(dataset) // total) for n in range(rank, total, world)]
            parts = one_size_each(dataset.buckets, own, batch_size)
            return _batches(dataset, parts, workers, context)
    return _batches(dataset, _grouped(samples, batch_size), workers, context)


def _batches(
    dataset: Dataset, requests: Iterable[Requests], workers: int, context: str | None
) -> Iterator[Batch]:
    decoder = _Decoder(dataset)
    results: Iterable[Fetched | FlexvarError]
    if workers == 0:
        results = (decoder.__getitems__(one) for one in requests)
    else:
        loader: DataLoader[Any] = DataLoader(
            decoder,  # type: ignore[arg-type]
            batch_sampler=requests,  # type: ignore[arg-type]
            num_workers=workers,
            collate_fn=_same,
            multiprocessing_context=context,
            # Its own source: the loader would draw from the global one.
            generator=torch.Generator(),
            worker_init_fn=serve,
        )
        with signals_held():
            results = iter(loader)
    try:
        for result in results:
            if isinstance(result, FlexvarError):
                raise result
            dataset.note(result)
            if len(result.labels_B):
                yield Batch(result.images_B3HW, result.labels_B, result.captions)
    finally:
        # A traceback that somebody keeps would keep this frame, and the workers with it.
        results = ()


class _Decoder:
    """What the worker processes run: all samples of a batch in one call."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitems__(self, requests: Requests) -> Fetched | FlexvarError:
        # As a value: raised in a worker, it would come back with a traceback as its message.
        try:
            return self.dataset.fetch(requests)
        except FlexvarError as error:
            return error


def _same(result: Any) -> Any:
    return result


def _grouped(samples: Iterator[Key | RawRequest], size: int) -> Iterator[Requests]:
    while batch := list(islice(samples, size)):
        yield batch


def _from_stream(pictures: PictureStream, stream: Stream, seed: int) -> Iterator[Requests]:
    """The pictures of each batch, and few others before them where the batch is very small."""
    raws: Iterator[Raw] = iter(())
    of_epoch, next_position = -1, 0
    recent: deque[RawRequest] = deque(maxlen=max(0, ENOUGH_TO_REPLACE - stream.batch_size))
    for positions in stream:
        batch: list[RawRequest] = []
        for epoch, position in positions:
            if epoch != of_epoch:
                raws, of_epoch, next_position = pictures.epoch(seed, epoch), epoch, 0
            for raw in islice(raws, position - next_position, None):
                batch.append(RawRequest(Key(position, epoch, seed), raw))
                break
            next_position = position + 1
        yield [*batch, *(RawRequest(None, request.raw) for request in recent)]
        recent.extend(batch)
