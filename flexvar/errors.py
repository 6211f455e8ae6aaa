"""The one exception that means: the caller can fix this. And text that is fit to be shown."""

from __future__ import annotations

import reprlib

from flexvar.text import printable

# A message is for a person: of a longer one the beginning and the end are enough.
LONGEST_MESSAGE = 4000
LONGEST_VALUE = 200
_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")


class FlexvarError(ValueError):
    """A mistake the caller can fix; the message says what was wrong and what to do next.

    The command line prints the message alone and exits with code 2. Anything else that
    escapes is a bug of flexvar or of a plugin and keeps its traceback. However long or strange
    the values in it, the message is short and can be printed.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(cut(printable(message, lines=True), LONGEST_MESSAGE))


class CheckpointError(FlexvarError):
    """A checkpoint that is missing, truncated, unsafe, or does not fit its config."""


class PluginError(FlexvarError):
    """A component that is not available: unknown, ambiguous, broken, or its packages are absent."""


class KeywordError(FlexvarError, TypeError):
    """A keyword that a call does not have; a `TypeError` too, as Python's own would be."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on whatever device; torch says so in several ways."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower() if isinstance(error, RuntimeError) else ""
    return any(sign in text for sign in _NO_MEMORY)


def one_line(text: object) -> str:
    """Printable text in one line."""
    return printable(" ".join(str(text).split()))


def cut(text: str, longest: int) -> str:
    """The text, or its beginning and end around a note of how much is left out."""
    if len(text) <= longest:
        return text
    head, tail = longest * 3 // 4, longest // 8
    return f"{text[:head]} ... ({len(text) - head - tail:,} characters left out) ... {text[-tail:]}"


def shown(value: object) -> str:
    """``repr`` of any value for a message: short, printable, and never an error of its own."""
    if isinstance(value, str):
        value = cut(value, LONGEST_VALUE)
    try:
        return cut(printable(_repr.repr(value)), LONGEST_VALUE)
    except Exception:
        return f"a {type(value).__name__} that cannot be shown"


def reason(error: BaseException, longest: int = LONGEST_VALUE) -> str:
    """What an exception says in one line, or its type if it says nothing or cannot speak."""
    try:
        said = one_line(getattr(error, "strerror", None) or error)
    except Exception:
        said = ""
    return cut(said, longest) or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, or its type if it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = LONGEST_VALUE
_repr.maxlist = _repr.maxtuple = _repr.maxdict = 8
