"""Values of numpy and torch, scalars and arrays, as Python's own numbers and lists."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from typing import Any

from flexvar.errors import FlexvarError, shown


def plain(value: Any) -> Any:
    """The value with every number and array of numpy or torch in it as Python's own.

    Arrays become lists, however they lie in lists, tuples and mappings; all else stays.
    """
    if value is None or isinstance(value, bool | int | str | bytes) or type(value) is float:
        return value
    if type(value) in (list, tuple):
        return type(value)(plain(item) for item in value)
    if type(value) is dict:
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, float):  # numpy's float64 is one, but is written differently
        return float(value)
    # numpy and torch both have it; nothing is imported to find out.
    if hasattr(value, "tolist") and hasattr(value, "dtype"):
        if getattr(value, "requires_grad", False):
            value = value.detach()
        return plain(value.tolist())
    if hasattr(value, "__index__"):
        return operator.index(value)
    return value


def scalar(value: Any) -> Any:
    """As `plain`, and an array of one value is that value."""
    value = plain(value)
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    return value


def whole(what: str, value: Any) -> int:
    """A whole number of any library as Python's. Raises `FlexvarError` for anything else."""
    number = scalar(value)
    if isinstance(number, float) and number.is_integer() and not isinstance(value, float):
        number = int(number)  # an array of float; Python's own 1.5 and 1.0 are no counts
    if isinstance(number, bool) or not isinstance(number, int):
        raise FlexvarError(f"{what}: got {shown(value)}; expected a whole number.")
    return number


def real(what: str, value: Any) -> float:
    """A finite number of any library as Python's. Raises `FlexvarError` for anything else."""
    number = scalar(value)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise FlexvarError(f"{what}: got {shown(value)}; expected a number.")
    try:
        number = float(number)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise FlexvarError(f"{what}: got {shown(value)}; expected a finite number.")
    return number


def writable(value: Any) -> Any:
    """What JSON writes in place of a value that it does not know; text for the rest."""
    changed = plain(value)
    if changed is not value:
        return changed
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    return str(value)
