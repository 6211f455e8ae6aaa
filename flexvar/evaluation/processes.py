"""Work shared out: between processes started here, or between those of a launcher."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, NamedTuple

from flexvar.data.workers import serve, signals_held
from flexvar.errors import FlexvarError

STOPPED = 128 + signal.SIGTERM
OF_LAUNCHER = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")

FIND = timedelta(minutes=10)

Work = Callable[[Any], Any]


class Died(Exception):  # noqa: N818 - turned into a message where it is known what was done
    """A process ended without a word."""


def shared_out(
    begin: Callable[[int], Work], tasks: Sequence[Any], processes: int, *, method: str = "spawn"
) -> Iterator[Any]:
    """What the work gives for every task, as they end, by processes started for it.

    begin: called with its number in each new process; gives what is called with a task there.
    Both have to be picklable, or for ``begin`` importable. method: of starting them; ``fork``
    only where nothing of torch's ran yet. An exception of a task is raised here;
    `Died` where a process is gone. However this ends, no process is left: they leave Ctrl-C to
    this one, end at a SIGTERM between two instructions, so that no half file stays, and with
    this process if it is killed.
    """
    context: Any = get_context(method)
    waiting = list(reversed(tasks))
    started: list[tuple[BaseProcess, Connection]] = []
    try:
        with signals_held():
            for number in range(min(processes, len(tasks))):
                mine, theirs = context.Pipe()
                others = [connection for _, connection in started] if method == "fork" else []
                given = (begin, number, theirs, [mine, *others] if method == "fork" else [])
                process = context.Process(target=_work, args=given, daemon=True)
                process.start()
                theirs.close()
                started.append((process, mine))
        busy = {mine: process for process, mine in started}
        for connection in list(busy):
            connection.send(waiting.pop())
        while busy:
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                try:
                    ended, value = ready.recv()
                except (EOFError, OSError):
                    busy[ready].join()
                    if busy[ready].exitcode == STOPPED:  # the signal was to all of us
                        raise KeyboardInterrupt from None
                    raise Died from None
                if not ended:
                    raise value
                if waiting:
                    ready.send(waiting.pop())
                else:
                    del busy[ready]
                yield value
    finally:
        _end(started)


def _end(started: Sequence[tuple[BaseProcess, Connection]]) -> None:
    """End processes and wait for them; a Ctrl-C that comes meanwhile is raised afterwards."""
    interrupted, ended = False, False
    while not ended:
        # Python looks for signals inside of calls; a second one may come before they are held.
        try:
            with signals_held():
                for process, connection in started:
                    connection.close()
                    process.terminate()
                for process, _ in started:
                    process.join(timeout=10)
                    if process.is_alive():
                        process.kill()
                        process.join()
                ended = True
        except KeyboardInterrupt:
            interrupted = True
    if interrupted:
        raise KeyboardInterrupt


def _work(
    begin: Callable[[int], Work],
    number: int,
    connection: Connection,
    inherited: Sequence[Connection] = (),
) -> None:
    for other in inherited:  # a copy of the parent's end would keep the pipe open without it
        other.close()
    serve()
    signal.signal(signal.SIGTERM, _stop)
    work = None
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        try:
            if work is None:
                work = begin(number)
            answer = (True, work(task))
        except Exception as error:
            answer = (False, error)
        try:
            connection.send(answer)
        except (EOFError, OSError):
            return


def _stop(number: int, frame: FrameType | None) -> None:
    sys.exit(STOPPED)


class World(NamedTuple):
    """Which of how many processes of a launcher this is; 0 of 1 without one."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    group: Any = None

    def barrier(self) -> None:
        """Wait for all others, as long as it takes."""
        if self.size > 1:
            import torch.distributed as dist

            dist.barrier(group=self.group)

    def from_main(self, value: Any) -> Any:
        """The main process's value, in all."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        values = [value]
        dist.broadcast_object_list(values, group=self.group)
        return values[0]


@contextmanager
def launched() -> Iterator[World]:
    """The processes that ``torchrun`` or ``accelerate launch`` started, connected over gloo.

    What is left over in the environment of a launcher that is gone counts as none.
    Raises `FlexvarError` if they do not find each other.
    """
    found = {name: os.environ.get(name, "") for name in OF_LAUNCHER}
    if not all(found.values()) or found["WORLD_SIZE"] == "1":
        yield World()
        return
    import torch.distributed as dist

    own = not dist.is_initialized()
    try:
        rank, size = int(found["RANK"]), int(found["WORLD_SIZE"])
        local = int(os.environ.get("LOCAL_RANK", rank))
        if own:
            dist.init_process_group("gloo", timeout=FIND)
        # To find each other takes minutes at most; to do a share takes as long as it takes.
        group = dist.new_group(timeout=timedelta(days=30), backend="gloo")
    except (ValueError, RuntimeError) as error:
        raise FlexvarError(
            f"The processes of the launcher do not find each other ({str(error).splitlines()[0]}). "
            f"To run alone: unset {' '.join(OF_LAUNCHER)}."
        ) from None
    try:
        yield World(rank, size, local, group)
    finally:
        if own:
            dist.destroy_process_group()
