"""Processes that work for another one: they leave its signals to it, and end when it does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ASKED = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def signals_held() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back while processes are started, and let them come afterwards.

    A process inherits what is held back, so that none can die of a signal between its start and
    `serve`: an interpreter that is only starting knows of no handler. (Windows has no such
    signals to hold.)
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ASKED)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def serve(_: int = 0) -> None:
    """In a process that works for another one, before its work.

    Ctrl-C and a SIGTERM to the whole group reach the workers too, as in a terminal, under Slurm
    and under systemd: what to do about it is the parent's affair, which may need one more batch
    before it saves. A second SIGTERM ends a worker: that is how a parent lets go of one that
    hangs. When the parent is gone, however it went, so is the worker.
    """
    heard = 0

    def on_term(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        heard += 1
        if heard > 1:
            os._exit(128 + number)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, on_term)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKED)
    if (parent := multiprocessing.parent_process()) is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    from multiprocessing.connection import wait

    wait([sentinel])
    os._exit(1)
