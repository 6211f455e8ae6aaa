"""What a component's options are: names, types, defaults and meanings, read off its Config."""

from __future__ import annotations

import inspect
import re
import types
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticUndefined


@dataclass(frozen=True, slots=True)
class Option:
    """One option. default: as it is written in a config, "required" if there is none."""

    name: str
    type: str
    default: str
    meaning: str


def options_of(config: type[BaseModel]) -> list[Option]:
    """The options of a Config, in its order.

    The meaning is a field's description, or what the docstring of the Config, or of one it derives
    from, says behind the option's name and a colon.
    """
    meanings: dict[str, str] = {}
    for cls in reversed(config.__mro__):
        if issubclass(cls, BaseModel) and cls is not BaseModel and "__doc__" in vars(cls):
            meanings |= described(inspect.cleandoc(cls.__doc__ or ""), set(config.model_fields))
    try:
        # What has no default may follow from the other options.
        usual: Any = config.model_validate({})
    except ValidationError:
        usual = None
    found = []
    for name, field in config.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if default is PydanticUndefined:
            written = "required" if usual is None else _written(getattr(usual, name))
        else:
            written = _written(default)
        found.append(
            Option(
                name,
                type_name(field.annotation),
                written,
                field.description or meanings.get(name, ""),
            )
        )
    return found


def described(text: str, names: set[str]) -> dict[str, str]:
    """What a docstring says of each name: ``depth: blocks. width, height: sides in cells.``"""
    one = "|".join(sorted(map(re.escape, names), key=len, reverse=True))
    if not one:
        return {}
    head = re.compile(rf"(?:^|(?<=[\s(]))((?:{one})(?:, (?:and )?(?:{one}))*):\s")
    flat = " ".join(text.split())
    marks = list(head.finditer(flat))
    ends = [mark.start() for mark in marks[1:]] + [len(flat)]
    found = {}
    for mark, end in zip(marks, ends, strict=False):
        meaning = flat[mark.end() : end].strip().rstrip(";,")
        for name in re.split(r", (?:and )?", mark[1]):
            found[name] = meaning
    return found


def type_name(annotation: Any) -> str:
    """A type as a reader of a config knows it: ``int``, ``'auto' | 'sdpa'``, ``float | None``."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(map(repr, parts))
    if origin in (Union, types.UnionType):
        return " | ".join(map(type_name, parts))
    if origin is tuple or origin is list:
        inside = ", ".join("..." if part is ... else type_name(part) for part in parts)
        return f"list of {inside.removesuffix(', ...')}" if "..." in inside else f"[{inside}]"
    if annotation is type(None):
        return "None"
    return getattr(annotation, "__name__", str(annotation))


def _written(default: Any) -> str:
    if isinstance(default, tuple):
        return "[" + ", ".join(map(_written, default)) + "]"
    return default if isinstance(default, str) else repr(default)
