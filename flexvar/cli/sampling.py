"""The options of the sampler in force, as options of a command: read from its Config."""

from __future__ import annotations

import inspect
import json
import types
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

from flexvar.cli.options import PRESETS

USUAL = "standard"


def with_sampler(
    function: Callable[..., None], arguments: Sequence[str] | None
) -> Callable[..., None]:
    """A command with the options of the sampler that the arguments mean; of none without them.

    function: takes them as ``**sampling``; what is not given does not reach it.
    Raises `FlexvarError` for a sampler there is not.
    """
    signature = inspect.signature(function)
    hints = get_type_hints(function, include_extras=True)
    own = [
        one.replace(annotation=hints[key], kind=inspect.Parameter.KEYWORD_ONLY)
        for key, one in signature.parameters.items()
        if one.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    fields = {} if arguments is None else _fields(sampler_of(arguments), [one.name for one in own])
    more = [
        inspect.Parameter(
            key, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=field.annotation
        )
        for key, field in fields.items()
    ]

    def command(**given: Any) -> None:
        sampling = {key: (field, given.pop(key)) for key, field in fields.items()}
        function(**given, **{k: f.value(v) for k, (f, v) in sampling.items() if v is not None})

    parameters = [*own, *more]
    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command


@dataclass(frozen=True, slots=True)
class _Field:
    """One option of a sampler: how typer takes it, and how its Config does."""

    annotation: Any
    many: bool

    def value(self, given: Any) -> Any:
        """A value as the Config takes it: the numbers of ``1,2,3`` where it takes several."""
        if not self.many:
            return given
        import yaml

        from flexvar.errors import FlexvarError

        try:
            return tuple(yaml.safe_load(f"[{given}]"))
        except yaml.YAMLError:
            raise FlexvarError(
                f"got {given!r}; expected values with commas between, as in 1,2,3."
            ) from None


def _fields(name: str, taken: Sequence[str]) -> dict[str, _Field]:
    """What a command line can say of a sampler's options."""
    from flexvar.errors import PluginError
    from flexvar.plugin import default_registry

    found = {}
    for key, field in default_registry().load("sampler", name).Config.model_fields.items():
        kind = _kind(field.annotation)
        if kind is None:
            continue
        if key in taken:
            raise PluginError(
                f"sampler {name!r}: its option {key!r} is one of the command already; only a "
                "change of that plugin can tell them apart."
            )
        option = typer.Option(
            help=field.description, show_default=PRESETS, rich_help_panel=f"Sampler {name}"
        )
        parts = (field.annotation, *get_args(field.annotation))
        many = any(get_origin(one) in (tuple, list) for one in parts)
        found[key] = _Field(Annotated[kind | None, option], many)
    return found


def sampler_of(arguments: Sequence[str]) -> str:
    """The name of the sampler that a command line means: by --sampler, or by its preset."""
    named = _given(arguments, "sampler")
    if named is not None:
        return named
    model, preset = _given(arguments, "model"), _given(arguments, "preset") or "default"
    for folder in (Path(model).expanduser(), _bundled(model)) if model else ():
        try:
            presets = json.loads((folder / "config.json").read_text(encoding="utf-8"))["presets"]
            return str(presets[preset].get("name", USUAL))
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
            continue  # what is wrong with a checkpoint is said where it is loaded
    return USUAL


def _bundled(name: str) -> Path:
    return Path(str(resources.files("flexvar"))) / "models" / name


def _given(arguments: Sequence[str], option: str) -> str | None:
    """The value of an option on a command line, the last one if it stands there twice."""
    found = None
    for here, after in zip(arguments, [*arguments, None][1:], strict=True):
        if here == f"--{option}" and after is not None:
            found = after
        elif here.startswith(f"--{option}="):
            found = here.partition("=")[2]
    return found


def _kind(annotation: Any) -> Any:
    """The type of a field's option; None for what no command line can say."""
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [one for one in get_args(annotation) if one is not type(None)]
        return _kind(kinds[0]) if len(kinds) == 1 else str
    if annotation in (bool, int, float, str):
        return annotation
    return str if get_origin(annotation) in (Literal, tuple, list) else None
