"""PNG files whose notes are too long for Pillow: the pixels without them."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_TEXT = frozenset((b"tEXt", b"zTXt", b"iTXt"))
# Bytes of an unpacked profile: those of printers reach some megabytes.
MOST_PROFILE = 32 * 2**20


def without_text(data: bytes) -> tuple[BytesIO, bytes | None]:
    """A PNG file without text and profile, and the profile if there is one.

    Raises `ValueError` for what is no PNG file.
    """
    if not data.startswith(SIGNATURE):
        raise ValueError("not a PNG file")
    kept, profile, place = [SIGNATURE], None, len(SIGNATURE)
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        kind, end = data[place + 4 : place + 8], place + 12 + length
        if kind == b"iCCP":
            profile = _unpacked(data[place + 8 : end - 4])
        elif kind not in _TEXT:
            kept.append(data[place:end])
        place = end
    return BytesIO(b"".join(kept)), profile


def _unpacked(chunk: bytes) -> bytes | None:
    _, _, packed = chunk.partition(b"\0")
    unpacking = zlib.decompressobj()
    try:
        # The first byte says how it is packed; there is only one way.
        profile = unpacking.decompress(packed[1:], MOST_PROFILE)
    except zlib.error:
        return None
    return profile if unpacking.eof else None
