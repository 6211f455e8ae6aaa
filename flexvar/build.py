"""Config -> parts -> model, with a check that the parts fit before any weight is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from flexvar.components import Facts, StepSchedule, Tokenizer, TokenSpace
from flexvar.config import ComponentConfig, ComponentSpec, ModelConfig, parse
from flexvar.errors import FlexvarError, PluginError
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
    config = _settled(config, planned)
    usual = torch.get_default_dtype()
    if usual != torch.float32:
        # What an application makes torch's default is no matter of ours, nor of a plugin's.
        torch.set_default_dtype(torch.float32)
    try:
        return _built(config, planned)
    finally:
        if usual != torch.float32:
            torch.set_default_dtype(usual)


def _built(config: ModelConfig, planned: Plan) -> Parts:
    facts = planned.facts
    tokenizer, schedule = planned.tokenizer.build(facts), planned.schedule.build(facts)
    model = None
    if planned.backbone is not None:
        backbone, position = planned.backbone.build(facts), planned.position.build(facts)
        conditioner = planned.conditioner.build(facts)
        model = NextScaleModel(backbone, position, conditioner, facts=facts)
    return Parts(config, tokenizer, schedule, model)


def settle(
    config: ModelConfig | Mapping[str, Any], registry: Registry | None = None
) -> ModelConfig:
    """The config with all that a checkpoint has to record, such as which text encoder it is for.

    Raises as `plan` does.
    """
    config = parse(ModelConfig, config)
    return _settled(config, plan(config, registry))


def build_for_weights(config: ModelConfig, registry: Registry | None = None) -> Parts:
    """The parts of a config as quickly as can be, for weights that will replace all of theirs.

    Built on the meta device where every component can be; else on the CPU.
    """
    try:
        with torch.device("meta"):
            parts = build(config, registry)
    except FlexvarError:
        raise
    except Exception:
        # A plugin that computes with its weights while it is built. If it is broken for
        # another reason, this raises again.
        with torch.device("cpu"):
            return build(config, registry)
    for module in parts.modules():
        if shared_weights(module):
            with torch.device("cpu"):
                return build(config, registry)
        for part in module.modules():
            for name, buffer in part.named_buffers(recurse=False):
                if name not in part._non_persistent_buffers_set:
                    continue
                if buffer.numel():
                    with torch.device("cpu"):
                        return build(config, registry)
                setattr(part, name, torch.empty_like(buffer, device="cpu"))
    return parts


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
