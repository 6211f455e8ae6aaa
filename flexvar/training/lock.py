"""One run at a time in a directory: who comes second is told who holds it."""

from __future__ import annotations

import errno
import json
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from flexvar.errors import FlexvarError

LOCK = ".lock"


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Hold a directory that exists while the block runs.

    A record lock on a file in it: gone with the process, however that ends, and seen by other
    machines where the file system passes locks on. Raises `FlexvarError` naming who holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    path = directory / LOCK
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise FlexvarError(f"Cannot write to {directory}: {error.strerror}.") from None
    try:
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise FlexvarError(
                    f"{directory} is in use: {_holder(handle)} trains there. Wait until it ends, "
                    "stop it, or choose another --out."
                ) from None
            warnings.warn(
                f"{directory} cannot be locked ({error.strerror}): see to it that no second run "
                "writes there.",
                stacklevel=2,
            )
        else:
            now = datetime.now().astimezone().isoformat(timespec="seconds")
            who = {"process": os.getpid(), "host": socket.gethostname(), "since": now}
            os.ftruncate(handle, 0)
            os.pwrite(handle, json.dumps(who).encode(), 0)
        yield
    finally:
        # Closing gives the lock back; the file stays, for whoever may be waiting on it.
        os.close(handle)


def _holder(handle: int) -> str:
    try:
        who = json.loads(os.pread(handle, 4096, 0))
        return f"process {int(who['process'])} on {who['host']}, since {who['since']},"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
