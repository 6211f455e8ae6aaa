"""The options of a config with their defaults and meaning, from the class and its docstring."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined


class Option(NamedTuple):
    """One option: its key, the values it takes, its default, and its meaning ("" unless said)."""

    key: str
    kind: str
    default: str
    meaning: str

    def lines(self, width: int = 100) -> list[str]:
        """For a terminal: key, default and values, then the meaning below."""
        head = f"{self.key} = {self.default}" if self.default else f"{self.key} (has to be given)"
        kind = f"  [{self.kind}]" if self.kind else ""
        return [head + kind, *textwrap.wrap(self.meaning, width - 4, initial_indent="    ",
                                            subsequent_indent="    ")]  # fmt: skip


def options_of(
    config: type[BaseModel], values: Mapping[str, Any] | None = None, prefix: str = ""
) -> Iterator[Option]:
    """The options of a config class, those of its sections after them, with dots.

    values: what stands in a recipe; it is shown in place of the default.
    """
    values = values or {}
    found = meanings(config)
    for name, field in config.model_fields.items():
        if field.description:
            found[name] = field.description.rstrip(".")
    sections: list[tuple[str, type[BaseModel], Mapping[str, Any]]] = []
    for name, field in config.model_fields.items():
        value = values.get(name, PydanticUndefined)
        section = _section(field.annotation)
        if section is not None and section.model_config.get("extra") != "allow":
            own = value if isinstance(value, Mapping) else {}
            default = field.get_default(call_default_factory=True, validated_data={})
            if value is PydanticUndefined and isinstance(default, BaseModel):
                own = default.model_dump()
            if value in (PydanticUndefined, None) and default is None:
                yield Option(f"{prefix}{name}", "section", "none", found.get(name, ""))
            sections.append((f"{prefix}{name}.", section, own))
            continue
        if value is PydanticUndefined:
            value = field.get_default(call_default_factory=True, validated_data={})
        shown = "" if value is PydanticUndefined else _text(value)
        yield Option(f"{prefix}{name}", _kind(field.annotation), shown, found.get(name, ""))
    for inner, section, own in sections:
        yield from options_of(section, own, inner)


def meanings(config: type[BaseModel]) -> dict[str, str]:
    """What a docstring says of each option, as in ``steps: optimiser steps. ema, decay: ...``."""
    result: dict[str, str] = {}
    for cls in reversed(config.__mro__):
        doc = cls.__dict__.get("__doc__")
        if (
            not (isinstance(cls, type) and issubclass(cls, BaseModel))
            or cls is BaseModel
            or not doc
        ):
            continue
        names = "|".join(sorted(map(re.escape, config.model_fields), key=len, reverse=True))
        entry = re.compile(rf"(?:(?<=[.;] )|^)((?:{names})(?:, (?:{names}))*): ")
        for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(doc)):
            if paragraph.startswith("==="):
                result |= _of_table(paragraph, config)
                continue
            text = re.sub(r"\s+", " ", paragraph)
            found = list(entry.finditer(text))
            ends = [match.start() for match in found[1:]] + [len(text)]
            for match, end in zip(found, ends, strict=False):  # none has no end either
                meaning = text[match.end() : end].strip().rstrip(".;").replace("``", "")
                result |= dict.fromkeys(match[1].split(", "), meaning)
    return result


def _of_table(paragraph: str, config: type[BaseModel]) -> dict[str, str]:
    """Meanings in the second column of a table whose first one holds options."""
    lines = paragraph.splitlines()
    _, second, *_ = re.finditer("=+", lines[0])
    result: dict[str, str] = {}
    name = ""
    for line in lines:
        first, text = line[: second.start()].strip(), line[second.start() : second.end()].strip()
        name = first if first else name
        if name in config.model_fields and not line.startswith("="):
            result[name] = f"{result.get(name, '')} {text}".strip()
    return result


def _section(annotation: Any) -> type[BaseModel] | None:
    """The config class of a nested section; lists of them are options like others."""
    for part in (annotation, *get_args(annotation)):
        if isinstance(part, type) and issubclass(part, BaseModel):
            return part if get_origin(annotation) not in (tuple, list, dict) else None
    return None


def _kind(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " | ".join(map(str, inner))
    if origin in (tuple, list):
        parts = [part for part in inner if part is not Ellipsis]
        many = ", ..." if Ellipsis in inner or origin is list else ""
        return f"[{', '.join(_kind(part) for part in parts)}{many}]"
    if origin is Union or type(annotation).__name__ == "UnionType":
        return " | ".join("none" if p is type(None) else _kind(p) for p in inner)
    if hasattr(annotation, "__metadata__"):
        return _kind(inner[0])
    names = {int: "whole number", float: "number", bool: "true | false", str: "text"}
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "name or {name: ..., options}"
    return names.get(annotation, "{...}" if origin is dict else "")


def _text(value: Any) -> str:
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_none=True)
        if set(value) == {"name"}:
            value = value["name"]
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_text(inner)}" for key, inner in value.items()) + "}"
    return str(value)
