"""A component with options to try it with, and who is there to try it with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flexvar.build import Choice
from flexvar.components import Facts
from flexvar.config import ComponentConfig, parse
from flexvar.errors import FlexvarError, PluginError
from flexvar.plugin import Kind, Registry

Options = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Variant:
    """A component and the options it is tried with; ``label`` tells variants apart."""

    kind: Kind
    name: str
    options: Options
    cls: type[Any]
    label: str

    def __str__(self) -> str:
        return self.label

    @property
    def spec(self) -> Any:
        """What a config says."""
        return {"name": self.name, **self.options}

    @property
    def config(self) -> ComponentConfig:
        """The component's checked options."""
        return parse(self.cls.Config, self.options, path=self.kind)

    def build(self, facts: Facts) -> Any:
        """The component."""
        return Choice(self.cls, self.config).build(facts)


def variants(
    registry: Registry, kind: Kind, name: str, options: Options | None = None
) -> list[Variant]:
    """A component with each of its options to try; ``options`` instead, if given.

    Raises `FlexvarError` for a component that cannot be had or refuses these options.
    """
    cls = registry.load(kind, name)
    offered: Any = getattr(cls, "contract_options", ({},)) if options is None else (options,)
    if isinstance(offered, Mapping) or not offered:
        raise PluginError(
            f"{kind} {name!r}: contract_options has to be a tuple of mappings, one per variant "
            f"to try; found {offered!r}."
        )
    found = [
        Variant(kind, name, dict(one), cls, name if number == 0 else f"{name}#{number}")
        for number, one in enumerate(offered)
    ]
    for variant in found:
        schema = getattr(cls, "Config", None)
        if not (isinstance(schema, type) and issubclass(schema, ComponentConfig)):
            raise PluginError(
                f"{kind} {name!r}: {cls.__name__} has to have a nested class Config, a subclass "
                "of flexvar.ComponentConfig."
            )
        try:
            variant.config  # noqa: B018 - parsed to see whether it can be
        except FlexvarError as error:
            raise PluginError(
                f"{kind} {name!r} cannot be tried with the options {dict(variant.options)}; give "
                f"the class the attribute contract_options, or options=. {error}"
            ) from None
    return found
