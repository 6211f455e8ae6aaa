"""What a long command says: lines and a bar that never end the work."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import typer

from flexvar.text import printable

# Without a terminal, seconds without a line after which one says how far the work is.
SILENCE = 30.0
_closed = False


def say(line: str) -> None:
    """Print a line, flushed, so that a log can be followed.

    Where output is closed (``| head``) or its disk full, say so once on standard error, and
    nothing more: hours of work do not end because nobody listens.
    """
    global _closed
    if _closed:
        return
    try:
        typer.echo(printable(line, lines=True))
        sys.stdout.flush()
    except (OSError, ValueError) as error:
        _closed = True
        # What is left in the buffer would fail again when Python ends.
        with open(os.devnull, "w") as nowhere:
            try:
                os.dup2(nowhere.fileno(), sys.stdout.fileno())
            except (OSError, ValueError):
                sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the rest of the process
        reason = getattr(error, "strerror", None) or error
        complain(f"Standard output cannot be written ({reason}); the work goes on without it.")


def tell(line: str) -> None:
    """Print a line of what was asked for; where nobody listens the command ends, see `main`."""
    typer.echo(printable(line, lines=True))


def complain(line: str) -> None:
    """Print a line on standard error, if that is open."""
    try:
        typer.echo(printable(line, lines=True), err=True)
    except (OSError, ValueError, AttributeError):
        return


@contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Within, SIGTERM does what Ctrl-C does, so that what is half done is cleaned up.

    Either may come while Python runs what cannot raise, the callback of a weak reference say. It
    is then not passed over with a traceback, as Python would, but comes again right after.
    """

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def again(unraisable: Any) -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            # From another thread and a moment later: here it could not be raised either.
            later = threading.Timer(0.01, _thread.interrupt_main)
            later.daemon = True
            later.start()
        else:
            hook(unraisable)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, hook = signal.signal(signal.SIGTERM, interrupt), sys.unraisablehook
    sys.unraisablehook = again
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
        sys.unraisablehook = hook


class Bar:
    """How far a training run is: a bar on a terminal, else a line after the first step and after
    long silence."""

    def __init__(self) -> None:
        self.terminal = sys.stderr is not None and sys.stderr.isatty()
        self._last, self._begun = time.monotonic(), False
        self._progress: Any = None
        self._task: Any = None

    def __enter__(self) -> Bar:
        if self.terminal:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn

            self._progress = Progress(
                SpinnerColumn(),
                BarColumn(bar_width=24),
                TextColumn("{task.description}", markup=False),
                console=Console(stderr=True),
                transient=True,
                # Lines go above the bar; to a file they go as they are.
                redirect_stdout=sys.stdout is not None and sys.stdout.isatty(),
                redirect_stderr=True,
            )
            self._progress.start()
            self._task = self._progress.add_task("getting ready", total=None)
        return self

    def __exit__(self, *_: object) -> None:
        if self._progress is not None:
            self._progress.stop()

    def say(self, line: str) -> None:
        """A line of the run's own."""
        self._last = time.monotonic()
        say(line)

    def step(self, step: int, steps: int, text: str) -> None:
        """``step`` of ``steps`` are done; text: loss, pace and time left."""
        if self._progress is not None:
            self._progress.update(
                self._task, total=steps, completed=step, description=f"step {step}/{steps}  {text}"
            )
            return
        if not self._begun or time.monotonic() - self._last > SILENCE:
            self._begun = True
            self.say(f"step {step}/{steps}  {text}")
