"""Files that appear whole or not at all, and small files read within bounds."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from flexvar.errors import FlexvarError, reason
from flexvar.values import writable

# A config, recipe or list of names; far more than any needs.
LONGEST_TEXT = 16 * 2**20
# What another machine may still be writing is left alone for a day.
STALE_SECONDS = 24 * 3600.0
_NAME = re.compile(r"\..+\.(?P<host>[\w-]+)-(?P<process>\d+)-\d+\.tmp")
_numbers = itertools.count()
_host = re.sub(r"[^\w]", "-", socket.gethostname())[:40] or "host"
_swept: set[str] = set()


class UnwritableError(FlexvarError):
    """A file that cannot be written; reason: in the system's words."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"Cannot write {path}: {why}.")
        self.reason = why


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name to write to; the file gets its own when the block ends well.

    What earlier processes left half written in the folder is removed. Raises `FlexvarError` where
    it cannot be written; the temporary file is removed.
    """
    temporary = temporary_name(path)
    try:
        _ready(path.parent)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise UnwritableError(path, reason(error)) from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder of the same name to fill; it takes its place when the block ends well.

    No system moves a folder over another that holds something: in one that is there already, each
    new file takes the place of the one of its name. Raises `UnwritableError` where it cannot be
    written; the temporary folder is removed.
    """
    temporary = temporary_name(path)
    made = temporary / path.name
    try:
        _ready(path.parent)
        made.mkdir(parents=True)
        yield made
        try:
            os.replace(made, path)
        except OSError:
            if not path.is_dir():
                raise
            for file in made.iterdir():
                os.replace(file, path / file.name)
        sync(path.parent)
    except OSError as error:
        raise UnwritableError(path, reason(error)) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _ready(folder: Path) -> None:
    """Make a folder, and once in a process sweep it."""
    folder.mkdir(parents=True, exist_ok=True)
    if str(folder) not in _swept:
        _swept.add(str(folder))
        sweep(folder)


def temporary_name(path: Path) -> Path:
    """A name beside ``path`` that no other thread, process or machine uses, for `sweep` to know."""
    # Some systems allow names of 255 bytes.
    name = path.name.encode("utf-8", "surrogateescape")[:150].decode("utf-8", "ignore")
    return path.with_name(f".{name}.{_host}-{os.getpid()}-{next(_numbers)}.tmp")


def sweep(folder: Path) -> None:
    """Remove what processes that are no more left half written in a folder, files and folders."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        if not (match := _NAME.fullmatch(entry.name)):
            continue
        with suppress(OSError):
            if match["host"] == _host:
                stale = not _alive(int(match["process"]))
            else:
                stale = time.time() - entry.stat(follow_symlinks=False).st_mtime > STALE_SECONDS
            if stale and entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            elif stale:
                os.unlink(entry.path)


def _alive(process: int) -> bool:
    if process == os.getpid():
        return True
    if os.name != "posix":
        return True  # to ask would end it
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # another user's
    return True


def sync(path: Path) -> None:
    """Have a file or folder survive a loss of power, where the system can."""
    with suppress(OSError):  # Windows opens no folders
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def read_text(path: str | Path, *, longest: int = LONGEST_TEXT) -> str:
    """The text of a file in UTF-8, without a byte-order mark.

    Raises `FlexvarError` for one that is missing, no regular file (a pipe or device may never
    end), longer than ``longest`` bytes, or in another encoding.
    """
    try:
        check_regular(path)
        with open(path, "rb") as file:
            data = file.read(longest + 1)
    except (OSError, ValueError) as error:
        raise FlexvarError(f"{path} cannot be read: {reason(error)}.") from None
    if len(data) > longest:
        raise FlexvarError(f"{path} cannot be read: it has more than {longest:,} bytes.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FlexvarError(
            f"{path} cannot be read: byte {error.start} is not UTF-8. Save it as UTF-8 text."
        ) from None


def check_regular(path: str | Path) -> None:
    """Raise `FlexvarError` for a folder, pipe, socket or device, and `OSError` for none at all."""
    mode = os.stat(path).st_mode
    if stat.S_ISREG(mode):
        return
    kinds = {
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    what = kinds.get(stat.S_IFMT(mode), "something else")
    raise FlexvarError(f"{path} cannot be read: it is {what}; give a regular file.")


def parse_json(text: str, source: object) -> Any:
    """The value of a JSON text. Raises `FlexvarError` for anything the reader stumbles over."""
    try:
        return json.loads(text)
    except RecursionError:
        raise FlexvarError(f"{source} cannot be read: it is nested too deeply.") from None
    except (ValueError, MemoryError) as error:
        raise FlexvarError(f"{source} cannot be read as JSON: {reason(error)}.") from None


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write values as indented JSON."""
    with whole_file(path) as temporary:
        text = json.dumps(values, indent=2, default=writable)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any] | None:
    """What a JSON file holds, None if there is none.

    Raises `FlexvarError` for one that is broken.
    """
    if not path.exists():
        return None
    try:
        values = parse_json(read_text(path), path)
        if not isinstance(values, dict):
            raise FlexvarError(f"{path} cannot be read: it holds no mapping.")
    except FlexvarError as error:
        raise FlexvarError(f"{error} Remove it, or name another directory.") from None
    return values
