"""Configuration: what a model is made of, checked before anything is built.

A model is described by `ModelConfig`; each component class owns its `Config`, a frozen subclass
of `ComponentConfig`. The same keys stand in YAML recipes and in a checkpoint's ``config.json``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from flexvar.errors import FlexvarError

M = TypeVar("M", bound=BaseModel)
_NUMBERS = (int, float, int | None, float | None)


class ComponentConfig(BaseModel):
    """Base of every component's options: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """Text and truth values are no numbers, whatever could be read into them."""
        assert info.field_name is not None
        wanted = cls.model_fields[info.field_name].annotation
        if wanted in _NUMBERS and isinstance(value, str | bool):
            raise ValueError("expected a number")
        return value


class ComponentSpec(BaseModel):
    """Which component, with which options: ``{"name": "transformer", "depth": 16}``.

    The options are checked by the component's own `Config` when the model is planned.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str

    @model_validator(mode="before")
    @classmethod
    def _accept_bare_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def options(self) -> dict[str, Any]:
        """The options beside the name."""
        return dict(self.model_extra or {})


class SamplerSpec(ComponentSpec):
    """Which sampler, with which options; ``standard`` where no name is given.

    What a preset of a checkpoint is: ``{"guidance": 2.0, "top_k": 900}``. The options of a config
    of ``standard`` will do as well.
    """

    name: str = "standard"

    @model_validator(mode="before")
    @classmethod
    def _accept_options(cls, value: Any) -> Any:
        if isinstance(value, ComponentConfig):
            return value.model_dump(exclude_unset=True)
        return value.model_dump() if isinstance(value, ComponentSpec) else value

    @model_serializer(mode="plain")
    def _without_the_usual_name(self) -> dict[str, Any]:
        """Options alone where the sampler is the usual one, as checkpoints always had them."""
        name = {} if self.name == "standard" else {"name": self.name}
        return {**name, **{key: value for key, value in self.options.items() if value is not None}}


class ModelConfig(ComponentConfig):
    """The parts of a model. Without ``backbone`` it is a tokenizer alone.

    num_classes: classes of the condition, at least 1; the null class is one more, added inside.
    class_names: one name per class, or none at all.
    """

    tokenizer: ComponentSpec
    backbone: ComponentSpec | None = None
    position: ComponentSpec = ComponentSpec(name="learned2d")
    schedule: ComponentSpec = ComponentSpec(name="ladder")
    conditioner: ComponentSpec = ComponentSpec(name="label")
    num_classes: int = Field(default=1, ge=1)
    class_names: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _one_name_per_class(self) -> ModelConfig:
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise ValueError(
                f"{len(self.class_names)} class names for {self.num_classes} classes; "
                "give one name per class or none"
            )
        return self


def parse(model: type[M], data: Any, *, path: str = "") -> M:
    """``data`` as an instance of ``model``.

    Raises `FlexvarError` that names, for each problem, the path (below ``path``), the value,
    and what was expected.
    """
    if isinstance(data, model):
        return data
    if not isinstance(data, Mapping):
        raise FlexvarError(f"{path or 'The config'}: expected a mapping of options, got {data!r}.")
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        lines = [_explain(model, problem, path) for problem in error.errors(include_url=False)]
        raise FlexvarError("\n".join(lines)) from None


def _explain(model: type[BaseModel], problem: Any, path: str) -> str:
    where = ".".join([*([path] if path else []), *(str(part) for part in problem["loc"])])
    if problem["type"] == "extra_forbidden":
        choices = list(_section(model, problem["loc"][:-1]).model_fields)
        near = get_close_matches(str(problem["loc"][-1]), choices, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        return f"{where}: unknown option{hint} Options: {', '.join(choices)}."
    if problem["type"] == "missing":
        return f"{where}: missing; it has to be given."
    message = problem["msg"].removeprefix("Value error, ")
    message = message.replace("Input should be", "expected")
    if not problem["loc"]:  # about the whole: there is no one value to show
        return f"{where or 'config'}: {message}."
    return f"{where or 'config'}: got {problem['input']!r}; {message}."


def _section(model: type[BaseModel], path: tuple[str | int, ...]) -> type[BaseModel]:
    """The config class of a nested section, as far as the annotations name it."""
    for part in path:
        if isinstance(part, int):
            continue  # of a list, whose annotation was followed already
        field = model.model_fields.get(part)
        found = [t for t in _types(field.annotation) if issubclass(t, BaseModel)] if field else []
        if not found:
            break
        model = found[0]
    return model


def _types(annotation: Any) -> list[type]:
    """All classes in an annotation such as ``tuple[LossSpec, ...] | None``."""
    if isinstance(annotation, type) and not get_args(annotation):
        return [annotation]
    return [found for part in get_args(annotation) for found in _types(part)]


def load_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML (or JSON) file. Raises `FlexvarError` if there is none."""
    path = Path(path)
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FlexvarError(f"Cannot read the config {path}: {error.strerror or error}.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FlexvarError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(data, dict):
        raise FlexvarError(f"{path} holds {type(data).__name__}, expected a mapping of options.")
    return data


def override(data: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """A copy of ``data`` with ``key.path=value`` assignments applied; values are YAML."""
    result = _copy(data)
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise FlexvarError(f"{text!r} is no override; write key=value, for example seed=1.")
        *parents, leaf = key.split(".")
        node = result
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise FlexvarError(f"{text!r}: {parent!r} is a value, not a section with options.")
        try:
            node[leaf] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise FlexvarError(f"{text!r}: the value is not valid YAML: {error}") from None
    return result


def _copy(data: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copy(v) if isinstance(v, Mapping) else v for k, v in data.items()}
