"""What the playground's page has to know of a model."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue

from flexvar.components.conditioner import takes
from flexvar.errors import FlexvarError
from flexvar.pipeline import Pipeline


def describe(name: str, pipe: Pipeline) -> dict[str, Any]:
    """Name, classes, sizes, steps, and the samplers with the ranges of their options."""
    trained = pipe.config.trained
    return {
        "name": name,
        "lines": pipe.describe(),
        "classes": list(pipe.class_names) if pipe.class_names else None,
        "takes": takes(pipe.model.conditioner),
        "num_classes": pipe.model.num_classes,
        "size": list(pipe.size),
        "stride": pipe.tokenizer.space.stride,
        "fixed": bool(pipe.known_layouts),
        "steps": list(trained.steps) if trained and trained.steps else None,
        "sampler": pipe.sampler,
        "samplers": _samplers(pipe),
    }


def _samplers(pipe: Pipeline) -> dict[str, list[dict[str, Any]]]:
    """Every sampler that can be had here, its options with the values in force."""
    found = {}
    for name in pipe.registry.names("sampler"):
        try:
            chosen = pipe.chosen({} if name == pipe.sampler else {"sampler": name})
        except FlexvarError:
            continue  # one that needs an option, or a package that is not there
        schema = type(chosen.config).model_json_schema(schema_generator=_WhatJsonHolds)
        values = {k: getattr(chosen.config, k) for k in schema.get("properties", {})}
        found[name] = [
            _option(key, field, values[key])
            for key, field in schema.get("properties", {}).items()
            if _kind(field)
        ]
    return found


class _WhatJsonHolds(GenerateJsonSchema):
    """Leaves out what no form can hold: an option that takes a function, say."""

    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> JsonSchemaValue:
        return {}


def _kind(field: dict[str, Any]) -> str | None:
    kinds = [part.get("type") for part in field.get("anyOf", [field])]
    return next((kind for kind in kinds if kind not in (None, "null")), None)


def _option(key: str, field: dict[str, Any], value: Any) -> dict[str, Any]:
    """One option as a form needs it: its kind, its choices or its range."""
    return {
        "name": key,
        "kind": _kind(field),
        "choices": field.get("enum"),
        "low": field.get("minimum", field.get("exclusiveMinimum")),
        "high": field.get("maximum", field.get("exclusiveMaximum")),
        "value": value,
        "meaning": field.get("description", ""),
    }
