"""A second copy of a state, to try a scale without moving the first on."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor, nn


def fork(state: Any) -> Any:
    """The state with tensors of its own; what is no tensor, or holds none, is shared.

    A state is what a model's ``start`` gave: any nesting of dataclasses, lists, tuples, mappings
    and plain objects. One that has a way of its own is asked for it: ``state.fork()``.
    """
    return _fork(state, {})


def _fork(value: Any, seen: dict[int, Any]) -> Any:
    if id(value) in seen:
        return seen[id(value)]
    result: Any
    if isinstance(value, Tensor):
        result = value.clone()
    elif hasattr(value, "fork"):
        result = value.fork()
    elif isinstance(value, list):
        result = [_fork(one, seen) for one in value]
    elif isinstance(value, tuple):
        parts = [_fork(one, seen) for one in value]
        result = type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    elif isinstance(value, dict):
        result = {key: _fork(one, seen) for key, one in value.items()}
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        if value.__dataclass_params__.frozen and not _holds_tensor(value):  # type: ignore[attr-defined]
            return value
        result = object.__new__(type(value))
        for field in dataclasses.fields(value):
            object.__setattr__(result, field.name, _fork(getattr(value, field.name), seen))
    elif hasattr(value, "__dict__") and not (callable(value) or isinstance(value, nn.Module)):
        result = object.__new__(type(value))
        result.__dict__.update({k: _fork(one, seen) for k, one in vars(value).items()})
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
