"""Configuration: what a model is made of, checked before anything is built.

A model is described by `ModelConfig`; each component class owns its `Config`, a frozen subclass
of `ComponentConfig`. The same keys stand in YAML recipes and in a checkpoint's ``config.json``.
"""

from __future__ import annotations

import re
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

from flexvar.errors import FlexvarError, reason, shown
from flexvar.files import read_text
from flexvar.text import printable
from flexvar.values import plain

M = TypeVar("M", bound=BaseModel)
_NUMBERS = (int, float, int | None, float | None)
# No recipe comes near; a reader written in Python takes seconds for more.
LONGEST_YAML = 2**20
MOST_VALUES = 100_000
MOST_LEVELS = 50
MOST_PROBLEMS = 10
LONGEST_NUMBER = 1000


class ComponentConfig(BaseModel):
    """Base of every component's options: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """Text and truth values are no numbers, values of numpy and torch are."""
        assert info.field_name is not None
        wanted = cls.model_fields[info.field_name].annotation
        if wanted in _NUMBERS and isinstance(value, str | bool):
            raise ValueError("expected a number")
        return value if wanted is Any else plain(value)


class ComponentSpec(BaseModel):
    """Which component, with which options: ``{"name": "transformer", "depth": 16}``.

    The options are checked by the component's own `Config` when the model is planned.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str

    @model_validator(mode="before")
    @classmethod
    def _accept_bare_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else plain(value)

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

    @field_validator("class_names", mode="before")
    @classmethod
    def _names_can_be_shown(cls, value: Any) -> Any:
        """Names of folders may be no text; they go to pages, tables and files all the same."""
        if not isinstance(value, list | tuple):
            return value
        return tuple(printable(name) if isinstance(name, str) else name for name in value)

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
        raise FlexvarError(
            f"{path or 'The config'}: expected a mapping of options, got {shown(data)}."
        )
    try:
        return model.model_validate(dict(data))
    except ValidationError as error:
        problems = error.errors(include_url=False)
        lines = [_explain(model, problem, path) for problem in problems[:MOST_PROBLEMS]]
        if len(problems) > MOST_PROBLEMS:
            lines.append(f"... and {len(problems) - MOST_PROBLEMS} more")
        raise FlexvarError("\n".join(lines)) from None
    except (RecursionError, OverflowError, MemoryError, TypeError) as error:
        raise FlexvarError(f"{path or 'The config'}: cannot be taken: {reason(error)}.") from None


def _explain(model: type[BaseModel], problem: Any, path: str) -> str:
    where = ".".join([*([path] if path else []), *(_step(part) for part in problem["loc"])])
    if problem["type"] == "extra_forbidden":
        choices = list(_section(model, problem["loc"][:-1]).model_fields)
        near = get_close_matches(str(problem["loc"][-1])[:100], choices, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        return f"{where}: unknown option{hint} Options: {', '.join(choices)}."
    if problem["type"] == "missing":
        return f"{where}: missing; it has to be given."
    message = problem["msg"].removeprefix("Value error, ")
    message = message.replace("Input should be", "expected")
    if not problem["loc"]:  # about the whole: there is no one value to show
        return f"{where or 'config'}: {message}."
    return f"{where or 'config'}: got {shown(problem['input'])}; {message}."


def _step(part: str | int) -> str:
    return part if isinstance(part, str) and 0 < len(part) < 100 else shown(part)


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


class _Loader(yaml.SafeLoader):
    """YAML whose numbers are what Python reads as numbers: ``3e-4`` is one, ``1:30`` is text."""


# YAML 1.1 reads 3e-4 as text, 010 as 8 and 1:30 as 90.
_INT = re.compile(r"[-+]?(?:0[xX][\da-fA-F]+|0[oO][0-7]+|0[bB][01]+|\d+(?:_\d+)*)")
_FLOAT = re.compile(
    r"[-+]?(?:(?:\d+(?:_\d+)*)?\.\d+(?:[eE][-+]?\d+)?|\d+(?:_\d+)*(?:\.(?:[eE][-+]?\d+)?"
    r"|[eE][-+]?\d+)|\.(?:inf|Inf|INF))|\.(?:nan|NaN|NAN)"
)
_TAGS = {"int": "tag:yaml.org,2002:int", "float": "tag:yaml.org,2002:float"}


def _read_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    if len(text) > LONGEST_NUMBER:
        raise FlexvarError(f"a number of {len(text):,} digits.")
    return int(text, 0) if re.match(r"[-+]?0[xXoObB]", text) else int(text)


def _read_float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(re.sub(r"^([-+]?)\.(inf|nan)$", r"\1\2", str(node.value).lower()))


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _TAGS.values()]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_TAGS["int"], re.compile(rf"^(?:{_INT.pattern})$"), [*"-+0123456789"])
_Loader.add_implicit_resolver(
    _TAGS["float"], re.compile(rf"^(?:{_FLOAT.pattern})$"), [*"-+0123456789."]
)
_Loader.add_constructor(_TAGS["int"], _read_int)
_Loader.add_constructor(_TAGS["float"], _read_float)


def parse_yaml(text: str, source: object) -> Any:
    """The value of a YAML text, of bounded size.

    Raises `FlexvarError` for anything the reader stumbles over, and for references that make it
    endless or larger than `MOST_VALUES`.
    """
    if len(text) > LONGEST_YAML:
        raise FlexvarError(f"{source}: more than {LONGEST_YAML:,} characters of YAML.")
    try:
        data = yaml.load(text, _Loader)  # a subclass of the safe one
        _count(data, {}, set(), 0)
        return data
    except RecursionError:
        raise FlexvarError(f"{source} is not valid YAML: it is nested too deeply.") from None
    except FlexvarError as error:
        raise FlexvarError(f"{source} is not valid YAML: {error}") from None
    # The reader's own bugs on odd input are of many types.
    except Exception as error:
        raise FlexvarError(f"{source} is not valid YAML: {reason(error)}") from None


def _count(data: Any, known: dict[int, int], above: set[int], depth: int) -> int:
    """How many values there are when every reference is followed."""
    if not isinstance(data, dict | list | tuple | set):
        return 1
    if id(data) in above:
        raise FlexvarError("a reference leads to itself.")
    if depth > MOST_LEVELS:
        raise FlexvarError("it is nested too deeply.")
    if id(data) not in known:
        above.add(id(data))
        inner = [*data, *data.values()] if isinstance(data, dict) else data
        known[id(data)] = 1 + sum(_count(item, known, above, depth + 1) for item in inner)
        above.discard(id(data))
    if known[id(data)] > MOST_VALUES:
        raise FlexvarError(f"it holds more than {MOST_VALUES:,} values.")
    return known[id(data)]


def load_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML (or JSON) file. Raises `FlexvarError` if there is none."""
    try:
        text = read_text(path, longest=4 * LONGEST_YAML)
    except FlexvarError as error:
        raise FlexvarError(f"Cannot read the config: {error}") from None
    data = parse_yaml(text, path)
    if not isinstance(data, dict):
        raise FlexvarError(f"{path} holds {type(data).__name__}, expected a mapping of options.")
    return data


def override(data: Mapping[str, Any], assignments: Iterable[str]) -> dict[str, Any]:
    """A copy of ``data`` with ``key.path=value`` assignments applied; values are YAML.

    A part that is named alone takes options after its name: ``backbone=mamba backbone.depth=2``.
    """
    result = _copy(data)
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise FlexvarError(
                f"{shown(text)} is no override; write key=value, for example seed=1."
            )
        *parents, leaf = key.split(".")
        if len(parents) > MOST_LEVELS:
            raise FlexvarError(f"{shown(text)}: more than {MOST_LEVELS} sections deep.")
        node = result
        for parent in parents:
            holder, node = node, node.setdefault(parent, {})
            if isinstance(node, str) and re.fullmatch(r"[\w-]+", node):
                node = holder[parent] = {"source" if parent == "data" else "name": node}
            if not isinstance(node, dict):
                raise FlexvarError(
                    f"{shown(text)}: {shown(parent)} is a value, not a section with options."
                )
        node[leaf] = parse_yaml(value, f"{shown(text)}: the value")
    return result


def _copy(data: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copy(v) if isinstance(v, Mapping) else v for k, v in data.items()}
