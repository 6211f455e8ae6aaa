"""flexvar: images by next-scale prediction, from swappable parts.

Public names load on first use, so that ``import flexvar`` imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flexvar.config import ComponentConfig as ComponentConfig
    from flexvar.config import ModelConfig as ModelConfig
    from flexvar.errors import FlexvarError as FlexvarError
    from flexvar.generate import SamplingSettings as SamplingSettings
    from flexvar.layout import Grid as Grid
    from flexvar.layout import Layout as Layout
    from flexvar.model import NextScaleModel as NextScaleModel
    from flexvar.pipeline import Pipeline as Pipeline
    from flexvar.plugin import Component as Component
    from flexvar.plugin import Registry as Registry
    from flexvar.plugin import hookimpl as hookimpl
    from flexvar.protocols import Facts as Facts
    from flexvar.protocols import Position as Position
    from flexvar.protocols import PrefixBackbone as PrefixBackbone
    from flexvar.protocols import PrefixConfig as PrefixConfig
    from flexvar.protocols import TokenSpace as TokenSpace

__version__ = "0.1.0"

_HOMES = {
    "Component": "flexvar.plugin",
    "ComponentConfig": "flexvar.config",
    "Facts": "flexvar.protocols",
    "FlexvarError": "flexvar.errors",
    "Grid": "flexvar.layout",
    "Layout": "flexvar.layout",
    "ModelConfig": "flexvar.config",
    "NextScaleModel": "flexvar.model",
    "Pipeline": "flexvar.pipeline",
    "Position": "flexvar.protocols",
    "PrefixBackbone": "flexvar.protocols",
    "PrefixConfig": "flexvar.protocols",
    "Registry": "flexvar.plugin",
    "SamplingSettings": "flexvar.generate",
    "TokenSpace": "flexvar.protocols",
    "hookimpl": "flexvar.plugin",
}

__all__ = [*sorted(_HOMES), "available"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'flexvar' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def available(kind: str, pattern: str = "*") -> list[str]:
    """Names of the installed components of a kind that match a glob.

    kind: "tokenizer", "backbone", "position" or "schedule".
    """
    from flexvar.plugin import default_registry

    return default_registry().names(kind, pattern)  # type: ignore[arg-type]
