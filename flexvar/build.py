"""Config -> parts -> model, with a check that the parts fit before any weight is made."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf, prod
from threading import get_ident
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.overrides import TorchFunctionMode

from flexvar.components import Facts, StepSchedule, Tokenizer, TokenSpace
from flexvar.config import ComponentConfig, ComponentSpec, ModelConfig, parse
from flexvar.errors import FlexvarError, PluginError, reason
from flexvar.model import NextScaleModel
from flexvar.plugin import Kind, Registry, default_registry


@dataclass(frozen=True, slots=True)
class Choice:
    """A component class and its checked options."""

    cls: type[Any]
    config: ComponentConfig

    def build(self, facts: Facts) -> Any:
        """The component."""
        return self.cls(self.config, facts=facts)


@dataclass(frozen=True, slots=True)
class Plan:
    """All choices, checked against each other; nothing built yet."""

    facts: Facts
    tokenizer: Choice
    backbone: Choice | None
    position: Choice
    schedule: Choice
    conditioner: Choice


@dataclass(slots=True)
class Parts:
    """A tokenizer (a module too), a schedule, and the model unless it is a tokenizer alone."""

    config: ModelConfig
    tokenizer: Tokenizer
    schedule: StepSchedule
    model: NextScaleModel | None
    registry: Registry | None = None  # that the config's names are of; None is the default one

    def modules(self) -> list[nn.Module]:
        """The parts with weights."""
        parts = (self.tokenizer, self.model)
        return [part for part in parts if isinstance(part, nn.Module)]


def plan(config: ModelConfig | Mapping[str, Any], registry: Registry | None = None) -> Plan:
    """The checked choices of a config.

    Raises `FlexvarError` for an unknown component, an unknown or wrong option (with its path in
    the config) and for parts that do not fit.
    """
    config = parse(ModelConfig, config)
    registry = registry or default_registry()
    tokenizer = choose(registry, "tokenizer", config.tokenizer)
    alone = config.backbone is None
    position = choose(registry, "position", config.position, build=not alone)
    conditioner = choose(registry, "conditioner", config.conditioner, build=not alone)
    schedule = choose(registry, "schedule", config.schedule)
    space = getattr(tokenizer.config, "space", None)
    if not isinstance(space, TokenSpace):
        raise PluginError(
            f"tokenizer {config.tokenizer.name!r}: its Config has to have the attribute 'space', "
            f"a flexvar.TokenSpace; found {space!r}."
        )
    if config.backbone is None:
        facts = Facts(space.vocab_size, space.code_dim, 0, 0, 0, space.groups)
        return Plan(facts, tokenizer, None, position, schedule, conditioner)
    backbone = choose(registry, "backbone", config.backbone)
    width, head_dim = (_whole(config.backbone, backbone, name) for name in ("width", "head_dim"))
    wants = getattr(position.cls, "provides", frozenset({"add"})) - {"add"}
    takes = _accepts(backbone)
    if wants - takes:
        raise FlexvarError(
            f"position {config.position.name!r} gives {', '.join(sorted(wants))} positions, which "
            f"backbone {config.backbone.name!r} ignores (it accepts "
            f"{', '.join(sorted(takes)) or 'none'}). Choose a position that is added, for "
            "example learned2d."
        )
    gives = getattr(conditioner.cls, "gives", frozenset({"pooled"}))
    if "pooled" not in gives and "tokens" not in takes:
        raise FlexvarError(
            f"conditioner {config.conditioner.name!r} gives {', '.join(sorted(gives))} alone, "
            f"which backbone {config.backbone.name!r} does not read (it accepts "
            f"{', '.join(sorted(takes)) or 'a pooled vector alone'}). Choose a backbone that "
            "accepts tokens, for example transformer, or a conditioner that gives a pooled vector."
        )
    needs: frozenset[str] = getattr(backbone.config, "needs", frozenset())
    if missing := needs - gives:
        raise FlexvarError(
            f"backbone {config.backbone.name!r} is to read {', '.join(sorted(missing))} of the "
            f"condition, which conditioner {config.conditioner.name!r} does not give (it gives "
            f"{', '.join(sorted(gives))}). Leave that option of the backbone out, or choose a "
            "conditioner that gives them, for example text."
        )
    facts = Facts(
        space.vocab_size,
        space.code_dim,
        width,
        head_dim,
        config.num_classes,
        space.groups,
        config.class_names,
        "tokens" in takes and "tokens" in gives,
    )
    if hasattr(conditioner.cls, "settled"):
        settled = conditioner.cls.settled(conditioner.config, facts)
        conditioner = Choice(conditioner.cls, settled)
    return Plan(facts, tokenizer, backbone, position, schedule, conditioner)


def build(config: ModelConfig | Mapping[str, Any], registry: Registry | None = None) -> Parts:
    """The parts of a config with fresh weights in fp32, on torch's current default device.

    Under ``with torch.device("meta"):`` no weight takes memory. Raises as `plan` does.
    """
    config = parse(ModelConfig, config)
    planned = plan(config, registry)
    with _bounded(Bounds()), _explained():
        return _build(config, planned, registry)


def _build(config: ModelConfig, planned: Plan, registry: Registry | None) -> Parts:
    config = _settled(config, planned)
    usual = torch.get_default_dtype()
    if usual != torch.float32:
        # What an application makes torch's default is no matter of ours, nor of a plugin's.
        torch.set_default_dtype(torch.float32)
    try:
        return _built(config, planned, registry)
    finally:
        if usual != torch.float32:
            torch.set_default_dtype(usual)


def _built(config: ModelConfig, planned: Plan, registry: Registry | None) -> Parts:
    facts = planned.facts
    tokenizer, schedule = planned.tokenizer.build(facts), planned.schedule.build(facts)
    model = None
    if planned.backbone is not None:
        backbone, position = planned.backbone.build(facts), planned.position.build(facts)
        conditioner = planned.conditioner.build(facts)
        model = NextScaleModel(backbone, position, conditioner, facts=facts)
    return Parts(config, tokenizer, schedule, model, registry)


def settle(
    config: ModelConfig | Mapping[str, Any], registry: Registry | None = None
) -> ModelConfig:
    """The config with all that a checkpoint has to record, such as which text encoder it is for.

    Raises as `plan` does.
    """
    config = parse(ModelConfig, config)
    return _settled(config, plan(config, registry))


def build_for_weights(
    config: ModelConfig,
    registry: Registry | None = None,
    *,
    like: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> Parts:
    """The parts of a config as quickly as possible, for weights that will replace all of theirs.

    On the CPU, with parameters that hold whatever is in their memory; on the device ``meta`` they
    have shapes alone. like: the weights to come, or their shapes; a config that describes far more
    than those ends at once.
    """
    planned = plan(config, registry)
    bounds = Bounds() if like is None else Bounds.of(like)
    with (
        torch.random.fork_rng(devices=[]),
        torch.device(device),
        _Unfilled(),
        _bounded(bounds),
        _explained(),
    ):
        return _build(config, planned, registry)


class _Unfilled(TorchFunctionMode):
    """Leaves out what gives parameters their first values: memory is not touched for them.

    The meta device has the same use, but for many operations torch imports its compiler there,
    which takes seconds and makes a folder among the temporary files.
    """

    ARITHMETIC = ("mul", "div", "add", "sub", "pow", "neg", "exp", "log", "sqrt", "erfinv", "clamp")
    CHANGES = frozenset(
        {"normal_", "uniform_", "random_", "exponential_", "bernoulli_", "fill_", "zero_", "copy_"}
        | {"clamp_min_", "clamp_max_", "addcmul_", "__imul__", "__iadd__", "__setitem__"}
        | {f"{name}_" for name in ARITHMETIC}
    )

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name, module = getattr(func, "__name__", ""), getattr(func, "__module__", "")
        if name in self.CHANGES or (module == "torch.nn.init" and name.endswith("_")):
            tensor = args[0] if args else kwargs.get("tensor")
            if isinstance(tensor, nn.Parameter):
                return tensor
        return func(*args, **kwargs)


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what torch says of sizes that cannot be into a `FlexvarError`."""
    try:
        yield
    except (RuntimeError, ArithmeticError, MemoryError, IndexError, TypeError) as error:
        if isinstance(error, TypeError) and "verflow" not in str(error):
            raise  # not about a size
        raise FlexvarError(f"The parts of this config cannot be built: {reason(error)}.") from error


@dataclass(slots=True)
class Bounds:
    """How much a config may describe: weights, and numbers in them.

    The largest model of this kind has some thousand weights; a depth with a digit too many would
    be built without end.
    """

    weights: int = 100_000
    numbers: int | None = None
    like: str = ""

    @classmethod
    def of(cls, weights: Mapping[str, Any]) -> Bounds:
        """Those of a config for these weights, with room for one that differs by some layers."""
        shapes = [tuple(getattr(value, "shape", value)) for value in weights.values()]
        numbers = 16 * sum(prod(shape) for shape in shapes) + 2**24
        hint = "; ".join(
            f"{key} has {count} members" for key, count in list_lengths(weights).items()
        )
        like = f" The file has {len(shapes):,} weights{f': {hint}' if hint else ''}."
        return cls(16 * len(shapes) + 1000, numbers, like)


@contextmanager
def _bounded(bounds: Bounds) -> Iterator[None]:
    """Raise `FlexvarError` in a build, before memory is touched, when it exceeds the bounds."""
    thread, made, numbers, held, modules = get_ident(), 0, 0, 0, 0
    memory = _memory()

    def count(module: nn.Module, name: str, parameter: Any) -> None:
        nonlocal made, numbers, held
        if get_ident() != thread or parameter is None:
            return
        made += 1
        numbers += parameter.numel()
        if parameter.device.type == "cpu":
            held += parameter.numel() * parameter.element_size()
        if held > memory:
            raise FlexvarError(
                f"This config describes a model of more than {held / 2**30:,.0f} GiB, and this "
                f"machine has {memory / 2**30:,.0f} GiB of memory. Look for an option with a digit "
                "too many."
            )
        if made > bounds.weights or (bounds.numbers is not None and numbers > bounds.numbers):
            raise FlexvarError(
                f"This config describes a model of more than {made - 1:,} weights with "
                f"{numbers:,} numbers. Look for an option with a digit too many.{bounds.like}"
            )

    def count_module(module: nn.Module, name: str, inner: Any) -> None:
        nonlocal modules
        if get_ident() != thread:
            return
        modules += 1
        if modules > 10 * bounds.weights:
            raise FlexvarError(
                f"This config describes a model of more than {modules - 1:,} modules. Look for an "
                f"option with a digit too many.{bounds.like}"
            )

    handles = [
        register_module_parameter_registration_hook(count),
        register_module_module_registration_hook(count_module),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _memory() -> float:
    """Bytes of memory of this machine; without end where it does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):
        return inf


def list_lengths(names: Iterable[str]) -> dict[str, int]:
    """How many members each outermost numbered list of modules has, by its prefix."""
    members: dict[str, set[str]] = {}
    for name in names:
        if match := re.match(r"(.+?)\.(\d+)\.", name):
            members.setdefault(match[1], set()).add(match[2])
    return {prefix: len(numbers) for prefix, numbers in members.items()}


def shared_weights(module: nn.Module) -> dict[str, str]:
    """Names under which a weight appears again -> its first name; empty if none is shared."""
    first: dict[int, str] = {}
    again = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        if first.setdefault(id(parameter), name) != name:
            again[name] = first[id(parameter)]
    return again


def _settled(config: ModelConfig, planned: Plan) -> ModelConfig:
    if not hasattr(planned.conditioner.cls, "settled"):
        return config
    name, options = config.conditioner.name, planned.conditioner.config
    given = config.conditioner.options.keys()
    changed = options.model_dump(mode="json", exclude_none=True)
    usual = {key: field.default for key, field in type(options).model_fields.items()}
    kept = {key: v for key, v in changed.items() if key in given or v != usual[key]}
    return config.model_copy(update={"conditioner": ComponentSpec(name=name, **kept)})


def _accepts(backbone: Choice) -> frozenset[str]:
    """What a backbone does with positions and conditions; its options may narrow it."""
    own: frozenset[str] = getattr(backbone.cls, "accepts", frozenset())
    return getattr(backbone.config, "accepts", own)


def component(
    kind: Kind, spec: ComponentSpec, facts: Facts, registry: Registry | None = None
) -> Any:
    """One component by itself, as a recipe or a preset names it.

    Raises `FlexvarError` for an unknown component and for options that it does not take.
    """
    return choose(registry or default_registry(), kind, spec).build(facts)


def choose(
    registry: Registry,
    kind: Kind,
    spec: ComponentSpec,
    *,
    build: bool = True,
    path: str | None = None,
) -> Choice:
    """The class of a component and its checked options; nothing at all unless ``build``.

    path: where the options stand, for messages; the kind unless given.
    Raises `FlexvarError` for an unknown component and an unknown or wrong option.
    """
    if not build:
        return Choice(object, ComponentConfig())
    cls = registry.load(kind, spec.name)
    schema = getattr(cls, "Config", None)
    if not (isinstance(schema, type) and issubclass(schema, ComponentConfig)):
        raise PluginError(
            f"{kind} {spec.name!r}: {cls.__name__} has to have a nested class Config, a subclass "
            "of flexvar.ComponentConfig."
        )
    return Choice(cls, parse(schema, spec.options, path=kind if path is None else path))


def _whole(spec: ComponentSpec, choice: Choice, name: str) -> int:
    value = getattr(choice.config, name, None)
    if not isinstance(value, int) or value < 1:
        raise PluginError(
            f"backbone {spec.name!r}: its Config has to have the attribute {name!r}, a whole "
            f"number from 1 on; found {value!r}."
        )
    return value
