"""Lists of class names, and the text in files that others wrote."""

from __future__ import annotations

from pathlib import Path

from flexvar.errors import FlexvarError

# Bytes of a list of class names.
MOST_NAMES = 64 * 2**20


def read_class_names(path: Path) -> list[str]:
    """The names in a text file, one a line. Raises `FlexvarError` for one that is none."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_NAMES + 1)
    except OSError as error:
        raise FlexvarError(f"Cannot read {path}: {error.strerror or error}.") from None
    text = decoded(data)
    if len(data) > MOST_NAMES or "\ufffd" in text or "\0" in text:
        raise FlexvarError(f"{path} is no list of class names: text in UTF-8, one name a line.")
    return [line.strip() for line in text.split("\n") if line.strip()]


def decoded(data: bytes) -> str:
    """The text in the bytes of a file: UTF-8, or UTF-16 that says so, without its mark."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", "replace")
    return data.decode("utf-8-sig", "replace")
