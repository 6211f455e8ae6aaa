"""Numbers and lists as a person writes them."""

from __future__ import annotations

from collections.abc import Sequence

SHOWN = 5


def count(number: int, one: str, more: str | None = None) -> str:
    """``1 picture``, ``2 pictures``; more: the plural where it is not one + s."""
    return f"{number:,} {one if number == 1 else more or one + 's'}"


def some(names: Sequence[str]) -> str:
    """The first names of a list."""
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")
