"""Which sampler a request means: a preset, another sampler's name, options over both."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from flexvar.build import choose
from flexvar.components import Facts, Sampler
from flexvar.config import ComponentConfig, SamplerSpec, parse
from flexvar.errors import FlexvarError, shown
from flexvar.plugin import Registry

Wanted = str | Mapping[str, Any] | SamplerSpec | ComponentConfig


@dataclass(frozen=True, slots=True)
class SamplerChoice:
    """A sampler's name, class and checked options."""

    name: str
    cls: type[Any]
    config: ComponentConfig

    def build(self, facts: Facts) -> Sampler:
        """The sampler."""
        return self.cls(self.config, facts=facts)

    @property
    def options(self) -> tuple[str, ...]:
        """Names of all its options."""
        return tuple(type(self.config).model_fields)

    def report(self) -> dict[str, Any]:
        """What results say of it: all options, and its name unless it is the usual one."""
        name = {} if self.name == "standard" else {"sampler": self.name}
        return {**name, **json.loads(self.config.model_dump_json(exclude_none=True))}

    def changed(
        self, wanted: Wanted | None, options: Mapping[str, Any], registry: Registry
    ) -> SamplerChoice:
        """The same with another sampler, if one is wanted, and with options in place of its own.

        An option of None is not given. Another sampler whose options derive from these, or these
        from them, keeps what was set of those that both have; any other starts from its defaults.
        Raises `FlexvarError` for what there is not.
        """
        given = {name: value for name, value in options.items() if value is not None}
        if wanted is None:
            other = self
        else:
            spec = spec_of(wanted, "sampler")
            given = {**spec.options, **given}
            cls = registry.load("sampler", spec.name)
            other = SamplerChoice(spec.name, cls, self.config)
            if cls is not self.cls:
                return of_spec(
                    SamplerSpec(name=spec.name, **{**self._shared(cls), **given}), registry
                )
        schema = type(other.config)
        return SamplerChoice(other.name, other.cls, parse(schema, {**_set(self.config), **given}))

    def _shared(self, cls: type[Any]) -> dict[str, Any]:
        mine, other = type(self.config), cls.Config
        if not (issubclass(other, mine) or issubclass(mine, other)):
            return {}
        return {name: v for name, v in _set(self.config).items() if name in other.model_fields}


def spec_of(wanted: Any, what: str) -> SamplerSpec:
    """A sampler's name and options, of a name, a mapping, a spec or options of ``standard``."""
    if not isinstance(wanted, str | Mapping | SamplerSpec | ComponentConfig):
        raise FlexvarError(
            f"{what}: got {shown(wanted)}; expected a sampler's name, or a mapping with its name "
            "and options."
        )
    try:
        return SamplerSpec.model_validate(dict(wanted) if isinstance(wanted, Mapping) else wanted)
    except ValidationError:
        raise FlexvarError(
            f"{what}: got {shown(wanted)}; expected a sampler's name, or a mapping with its name "
            "and options."
        ) from None


def of_spec(wanted: Wanted, registry: Registry, *, path: str = "") -> SamplerChoice:
    """The checked choice of a sampler. Raises `FlexvarError` for what there is not."""
    spec = spec_of(wanted, path or "sampler")
    chosen = choose(registry, "sampler", spec, path=path)
    return SamplerChoice(spec.name, chosen.cls, chosen.config)


def _set(config: ComponentConfig) -> dict[str, Any]:
    """The options that were given, rather than left at their defaults."""
    values = {name: getattr(config, name) for name in config.model_fields_set}
    return {name: value for name, value in values.items() if value is not None}
