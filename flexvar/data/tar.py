"""Tar files read member by member, within bounds of memory and time."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import posixpath
import tarfile
from collections.abc import Iterator
from typing import Any, cast

# A larger member is no picture. It is also the most that is read at once.
MOST_MEMBER = 256 * 2**20
# Compressed files that unpack to so many bytes, and to so many times their size, are bombs: the
# pictures in a shard hardly shrink.
MOST_UNPACKED, MOST_RATIO = 256 * 2**20, 200
_CHUNK = 2**20
_MAGIC: dict[bytes, Any] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ": lzma.LZMAFile,
}


class DamagedError(Exception):
    """A tar file that cannot be read on: what is wrong with it."""


class Tar:
    """The members of a tar file, in order.

    file: open for reading; it need not be able to seek. ``read`` takes the member that came last,
    or, where the file can seek (``seekable``), an earlier one. Whatever is wrong with the file
    comes as a `DamagedError`.
    """

    def __init__(self, file: Any) -> None:
        self._counted = _Counted(file)
        try:
            head = self._counted.peek(6)
        except (OSError, ValueError) as error:
            raise DamagedError(str(error)) from None
        packed = next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), None)
        size = None
        if packed is None and file_seeks(file):
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
        self.seekable = size is not None
        if size is not None:
            source = file
        else:
            source = self._counted if packed is None else _unpacking(packed, self._counted)
        self._bytes = _Bytes(source, self._counted, size, packed is not None)
        self._earlier: dict[str, tarfile.TarInfo] = {}

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        try:
            yield from self._members()
        except DamagedError:
            raise
        except Exception as error:
            # tarfile, and what unpacks, stumble over anything in damaged files.
            raise DamagedError(str(error) or type(error).__name__) from None

    def _members(self) -> Iterator[tarfile.TarInfo]:
        tar = tarfile.TarFile(fileobj=cast(Any, self._bytes), mode="r", errors="surrogateescape")
        behind = -1
        while (info := tar.next()) is not None:
            # Sizes below zero would lead back; what tarfile remembers would fill the memory.
            if info.size < 0 or tar.offset <= behind:
                raise DamagedError(f"a broken header at byte {info.offset}")
            behind = tar.offset
            tar.members = []  # type: ignore[attr-defined]
            size = self._bytes.size
            if size is not None and info.isreg() and not info.sparse:
                if info.offset_data + info.size > size:
                    raise DamagedError("unexpected end of data")
                self._earlier[posixpath.normpath(info.name)] = info
            self._tar = tar
            yield info
        if self._bytes.last.strip(b"\0"):
            raise DamagedError(f"no header at byte {tar.offset}, where one is expected")
        # Two blocks of zeros end it, and whatever reads tar files stops there.
        if self.seekable and self._bytes.read(_CHUNK).strip(b"\0"):
            raise DamagedError(f"more behind its end at byte {tar.offset}")

    def target(self, link: tarfile.TarInfo) -> tarfile.TarInfo | None:
        """The earlier file that a hard or symbolic link means, if it can be read again."""
        name = link.linkname
        if link.issym():
            name = posixpath.join(posixpath.dirname(link.name), name)
        return self._earlier.get(posixpath.normpath(name))

    def read(self, info: tarfile.TarInfo) -> bytes:
        """The bytes of a member of at most `MOST_MEMBER`."""
        try:
            if info.sparse:
                file = self._tar.extractfile(info)
                return file.read() if file else b""
            self._bytes.seek(info.offset_data)
            data = self._bytes.read(info.size)
        except DamagedError:
            raise
        except Exception as error:
            raise DamagedError(str(error) or type(error).__name__) from None
        if len(data) < info.size:
            raise DamagedError("unexpected end of data")
        return data


def file_seeks(file: Any) -> bool:
    """Whether an open file can be read at any place."""
    try:
        return bool(file.seekable())
    except (AttributeError, OSError, ValueError):
        return False


def _unpacking(kind: Any, file: _Counted) -> Any:
    return gzip.GzipFile(fileobj=file) if kind is gzip.GzipFile else kind(file)  # type: ignore[call-overload]


class _Counted:
    """A file that says how much of it was read, and can be looked at beforehand."""

    def __init__(self, file: Any) -> None:
        self._file, self._head = file, b""
        self.count = 0

    def peek(self, count: int) -> bytes:
        while len(self._head) < count and (more := self._file.read(count - len(self._head))):
            self._head += more
        if file_seeks(self._file):
            head, self._head = self._head, b""
            self._file.seek(0)
            return head
        return self._head

    def read(self, count: int = -1) -> bytes:
        if self._head:
            part = self._head if count < 0 else self._head[:count]
            self._head = self._head[len(part) :]
        else:
            part = self._file.read(min(count, _CHUNK) if count >= 0 else _CHUNK)
        self.count += len(part)
        return part

    # What unpacks asks for these, and does without.
    def seekable(self) -> bool:
        return False

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        pass

    @property
    def closed(self) -> bool:
        return False


class _Bytes:
    """What tarfile reads: bounded, forward only unless the file can seek.

    last: what the last read gave, if it was a header's block.
    """

    def __init__(self, file: Any, counted: _Counted, size: int | None, packed: bool) -> None:
        self._file, self._counted, self.size, self._packed = file, counted, size, packed
        self._at = 0
        self.last = b""

    def tell(self) -> int:
        return self._at

    def seek(self, place: int, whence: int = 0) -> int:
        assert whence == 0
        if self.size is not None:
            self._at = self._file.seek(min(place, self.size))
        elif place < self._at:
            raise DamagedError("it can only be read forward")
        while self._at < place and self.size is None:
            if not self._take(min(_CHUNK, place - self._at)):
                break
        return self._at

    def read(self, count: int = -1) -> bytes:
        if count < 0 or count > MOST_MEMBER:
            raise DamagedError(f"a part of more than {MOST_MEMBER >> 20} MiB")
        parts = []
        while count and (part := self._take(min(count, _CHUNK))):
            parts.append(part)
            count -= len(part)
        data = b"".join(parts)
        if len(data) <= tarfile.BLOCKSIZE:
            self.last = data
        return data

    def _take(self, count: int) -> bytes:
        part: bytes = self._file.read(count)
        self._at += len(part)
        if self._packed and self._at > max(MOST_UNPACKED, MOST_RATIO * self._counted.count):
            raise DamagedError(
                f"it unpacks to more than {MOST_RATIO} times its size, as no pictures do"
            )
        return part
