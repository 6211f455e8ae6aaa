"""Makes pictures one job at a time, in one thread, and tells who listens how far each is."""

from __future__ import annotations

import asyncio
import io
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from flexvar import images
from flexvar.errors import FlexvarError
from flexvar.layout import Layout
from flexvar.pipeline import Pipeline

MOST_WAITING = 16
# Pictures and finished jobs that are remembered; older ones are forgotten.
MOST_KEPT = 200


class QueueFullError(FlexvarError):
    """More jobs wait than the queue takes."""


class Cancelled(BaseException):
    """The job was cancelled; not an error, so that nothing on the way takes it for one."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture that was made: its file, its settings, and its tokens to go on from.

    maps: (1,h,w) or (1,h,w,G) int64 per scale.
    """

    id: str
    png: bytes
    settings: dict[str, Any]
    layout: Layout
    maps: tuple[Tensor, ...]


@dataclass(eq=False)
class Job:
    """Something to make. events: what happened so far, in order; the last one ends the job."""

    id: str
    work: Callable[[Job], dict[str, Any]] = field(repr=False)
    events: list[dict[str, Any]] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)
    finished: threading.Event = field(default_factory=threading.Event)
    _listeners: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def tell(self, kind: str, **values: Any) -> None:
        """Add an event and wake who listens."""
        with self._lock:
            self.events.append({"event": kind, **values})
            for loop, event in self._listeners:
                loop.call_soon_threadsafe(event.set)

    async def follow(self) -> Any:
        """Yield the events, those of the past first, until the job has ended."""
        wake, seen = asyncio.Event(), 0
        listener = (asyncio.get_running_loop(), wake)
        with self._lock:
            self._listeners.append(listener)
        try:
            while True:
                wake.clear()
                ended = self.finished.is_set()
                while seen < len(self.events):
                    yield self.events[seen]
                    seen += 1
                if ended and seen == len(self.events):
                    return
                await wake.wait()
        finally:
            with self._lock:
                self._listeners.remove(listener)


class Studio:
    """Models, a queue of jobs, and the pictures that were made of late."""

    def __init__(self, pipelines: dict[str, Pipeline]) -> None:
        self.pipelines = pipelines
        self.jobs: OrderedDict[str, Job] = OrderedDict()
        self.pictures: OrderedDict[str, Picture] = OrderedDict()
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._current: Job | None = None
        self._closed = False
        for pipe in pipelines.values():
            self._watch(pipe)
        self._thread = threading.Thread(target=self._work, name="flexvar-studio", daemon=True)
        self._thread.start()

    def pipe(self, name: str) -> Pipeline:
        """A model by name. Raises `FlexvarError` with the names there are."""
        if name not in self.pipelines:
            raise FlexvarError(
                f"model: there is no {name[:80]!r} here. Models: {', '.join(self.pipelines)}."
            )
        return self.pipelines[name]

    def submit(self, work: Callable[[Job], dict[str, Any]]) -> Job:
        """Queue something to make. Raises `QueueFullError` if too many wait."""
        job = Job(secrets.token_hex(8), work)
        with self._changed:
            if len(self._waiting) >= MOST_WAITING:
                raise QueueFullError(
                    f"{MOST_WAITING} requests wait already; try again in a moment."
                )
            self._waiting.append(job)
            self.jobs[job.id] = job
            _forget(self.jobs, MOST_KEPT, lambda old: old.finished.is_set())
            place = len(self._waiting) - 1 + (self._current is not None)
            job.tell("queued", before=place)
            self._changed.notify()
        return job

    def cancel(self, job: Job) -> None:
        """End a job, one that waits at once and one that runs at its next layer."""
        job.cancelled.set()
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
                self._end(job, "cancelled")

    def keep(self, picture: Picture) -> None:
        """Remember a picture."""
        self.pictures[picture.id] = picture
        _forget(self.pictures, MOST_KEPT, lambda _: True)

    def close(self) -> None:
        """Stop after the job in hand, which is cancelled."""
        with self._changed:
            self._closed = True
            if self._current is not None:
                self._current.cancelled.set()
            self._changed.notify()
        self._thread.join(timeout=10)

    def check(self) -> None:
        """Raise `Cancelled` if the job in hand was cancelled; only the worker's thread asks."""
        job = self._current
        if job is not None and job.cancelled.is_set():
            raise Cancelled

    def _watch(self, pipe: Pipeline) -> None:
        """Let every layer of a model ask whether to go on."""

        def ask(*_: Any) -> None:
            if threading.current_thread() is self._thread:
                self.check()

        for module in pipe.parts.modules():
            for part in module.modules():
                if not isinstance(part, nn.ModuleList):
                    part.register_forward_pre_hook(ask)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if self._closed:
                    for job in self._waiting:
                        self._end(job, "cancelled")
                    return
                job = self._current = self._waiting.popleft()
            try:
                with timed() as took:
                    job.tell("started")
                    result = job.work(job)
                self._end(job, "done", seconds=took(), **result)
            except Cancelled:
                self._end(job, "cancelled")
            except FlexvarError as error:
                self._end(job, "error", message=str(error))
            except Exception as error:
                # One broken job must not end the server.
                self._end(job, "error", message=f"{type(error).__name__}: {error}", ours=True)
            finally:
                self._current = None

    def _end(self, job: Job, kind: str, **values: Any) -> None:
        job.finished.set()
        job.tell(kind, **values)
        # The work holds uploaded pictures.
        job.work = _nothing


def _nothing(job: Job) -> dict[str, Any]:
    return {}


def _forget(kept: OrderedDict[str, Any], most: int, may: Callable[[Any], bool]) -> None:
    """Drop the oldest entries that may go until no more than ``most`` are left."""
    for key in list(kept)[: max(0, len(kept) - most)]:
        if may(kept[key]):
            del kept[key]


@contextmanager
def timed() -> Iterator[Callable[[], float]]:
    """A function that says how many seconds have passed since the block began."""
    start = time.perf_counter()
    yield lambda: round(time.perf_counter() - start, 3)


def small_file(image_3HW: Tensor) -> bytes:
    """A picture in [0,1] as a PNG, compressed quickly."""
    data = io.BytesIO()
    images.to_pil(image_3HW).save(data, format="PNG", compress_level=1)
    return data.getvalue()


def memory_mb(device: torch.device) -> float | None:
    """The most memory of a GPU since it was last reset, in MB; None on a CPU."""
    if device.type != "cuda":
        return None
    return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)


def resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A picture at another size (height, width)."""
    return image.resize((size[1], size[0]), Image.Resampling.LANCZOS)
