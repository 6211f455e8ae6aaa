"""Text from anywhere, file names and class names above all, made fit to be shown."""

from __future__ import annotations

import re
import unicodedata

# What turns the direction of the text around it, so that a line reads as something else.
_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff")
_HIDDEN = frozenset(("Cc", "Cs", "Zl", "Zp"))
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|~#$&])")
# What makes a heading, a list or a quotation of the line it begins.
_LINE_START = re.compile(r"^(\s*(?=[-+=])|\s*\d+(?=[.)]))(.)")


def printable(value: object, *, most: int | None = None, lines: bool = False) -> str:
    r"""The text of anything, safe for a terminal, a file or a page.

    Control characters, halves of surrogate pairs, and marks that turn the direction are written
    as escapes: ``\n``, ``\x1b``, and ``\xe9`` for the byte of a file name that is no text. Every
    other character of any script stays. most: characters, beyond which the middle is left out.
    lines: whether line ends stay, as in messages of several lines. It is never an error, also
    for an object whose own ``str`` is.
    """
    try:
        text = value if isinstance(value, str) else str(value)
    except Exception:
        text = f"<{type(value).__name__}>"
    if most is not None and len(text) > most:
        text = f"{text[: most // 2]} ... {text[len(text) - most // 2 :]}"
    if text.isascii() and text.isprintable():
        return text
    keep = "\n" if lines else ""
    return "".join(char if char in keep or _shows(char) else _escape(char) for char in text)


def markdown(value: object, *, most: int | None = None) -> str:
    """The text of anything as Markdown that shows it as it is, in one line and one table cell."""
    text = _MARKDOWN.sub(r"\\\1", printable(value, most=most))
    return _LINE_START.sub(lambda found: f"{found[1]}\\{found[2]}", text)


def _shows(char: str) -> bool:
    return char not in _DIRECTIONS and unicodedata.category(char) not in _HIDDEN


def _escape(char: str) -> str:
    # Python reads a byte that is no text as one of these.
    if "\udc80" <= char <= "\udcff":
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode("ascii")
