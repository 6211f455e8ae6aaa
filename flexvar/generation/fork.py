"""A second copy of a state, to try a scale without moving the first on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


def fork(state: Any) -> Any:
    """The state with tensors of its own; what is no tensor, or holds none, is shared.

    A state is what a model's ``start`` gave: any nesting of dataclasses, lists, tuples, mappings
    and plain objects. One that has a way of its own is asked for it: ``state.fork()``.
    """
    return _mapped(state, Tensor.clone, {}, own=True)


def mapped(state: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """The state with what a function makes of each tensor, always in the same order.

    A tensor that stands in several places is asked for once.
    """
    return _mapped(state, function, {}, own=False)


def collected(over: Callable[[Callable[[Tensor], Tensor]], object]) -> list[Tensor]:
    """The tensors that ``over``, such as `mapped` of a state, calls a function with, in order."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    over(note)
    return found


def _mapped(
    value: Any, function: Callable[[Tensor], Tensor], seen: dict[int, Any], *, own: bool
) -> Any:
    if id(value) in seen:
        return seen[id(value)]

    def inner(part: Any) -> Any:
        return _mapped(part, function, seen, own=own)

    result: Any
    if isinstance(value, Tensor):
        result = function(value)
    elif own and hasattr(value, "fork"):
        result = value.fork()
    elif isinstance(value, list):
        result = [inner(one) for one in value]
    elif isinstance(value, tuple):
        parts = [inner(one) for one in value]
        result = type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    elif isinstance(value, dict):
        result = {key: inner(one) for key, one in value.items()}
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        if value.__dataclass_params__.frozen and not _holds_tensor(value):  # type: ignore[attr-defined]
            return value
        result = object.__new__(type(value))
        for field in dataclasses.fields(value):
            object.__setattr__(result, field.name, inner(getattr(value, field.name)))
    elif hasattr(value, "__dict__") and not (callable(value) or isinstance(value, nn.Module)):
        result = object.__new__(type(value))
        result.__dict__.update({k: inner(one) for k, one in vars(value).items()})
    else:
        return value
    seen[id(value)] = result
    return result


def _holds_tensor(value: Any) -> bool:
    if isinstance(value, Tensor):
        return True
    if isinstance(value, dict):
        return any(map(_holds_tensor, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_holds_tensor, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return any(_holds_tensor(getattr(value, f.name)) for f in dataclasses.fields(value))
    return False
