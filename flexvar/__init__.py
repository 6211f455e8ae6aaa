"""flexvar: images by next-scale prediction, from swappable parts.

Public names load on first use, so that ``import flexvar`` imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flexvar.components import Condition as Condition
    from flexvar.components import Facts as Facts
    from flexvar.components import Loss as Loss
    from flexvar.components import Pairs as Pairs
    from flexvar.components import Position as Position
    from flexvar.components import PrefixBackbone as PrefixBackbone
    from flexvar.components import PrefixConfig as PrefixConfig
    from flexvar.components import TokenizerOutput as TokenizerOutput
    from flexvar.components import TokenSpace as TokenSpace
    from flexvar.config import ComponentConfig as ComponentConfig
    from flexvar.config import ModelConfig as ModelConfig
    from flexvar.errors import FlexvarError as FlexvarError
    from flexvar.layout import Grid as Grid
    from flexvar.layout import Layout as Layout
    from flexvar.model import NextScaleModel as NextScaleModel
    from flexvar.pipeline import Pipeline as Pipeline
    from flexvar.plugin import Component as Component
    from flexvar.plugin import Registry as Registry
    from flexvar.plugin import hookimpl as hookimpl

    SamplingSettings: Any

__version__ = "0.1.0"

_HOMES = {
    "Component": "flexvar.plugin",
    "ComponentConfig": "flexvar.config",
    "Condition": "flexvar.components",
    "Facts": "flexvar.components",
    "FlexvarError": "flexvar.errors",
    "Grid": "flexvar.layout",
    "Layout": "flexvar.layout",
    "Loss": "flexvar.components",
    "ModelConfig": "flexvar.config",
    "NextScaleModel": "flexvar.model",
    "Pairs": "flexvar.components",
    "Pipeline": "flexvar.pipeline",
    "Position": "flexvar.components",
    "PrefixBackbone": "flexvar.components",
    "PrefixConfig": "flexvar.components",
    "Registry": "flexvar.plugin",
    "TokenSpace": "flexvar.components",
    "TokenizerOutput": "flexvar.components",
    "hookimpl": "flexvar.plugin",
}

__all__ = [*sorted(_HOMES), "SamplingSettings", "available"]


def __getattr__(name: str) -> Any:
    if name == "SamplingSettings":
        # The options of the usual sampler, which is a plugin as all others are.
        from flexvar.plugin import default_registry

        return default_registry().load("sampler", "standard").Config
    if name not in _HOMES:
        raise AttributeError(f"module 'flexvar' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def available(kind: str, pattern: str = "*") -> list[str]:
    """Names of the installed components of a kind that match a glob.

    kind: "tokenizer", "backbone", "position", "schedule", "conditioner", "sampler", "objective", or
    what else plugins offer: "loss", "converter", "released", "benchmark".
    """
    from flexvar.plugin import default_registry

    return default_registry().names(kind, pattern)  # type: ignore[arg-type]
