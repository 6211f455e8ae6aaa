"""Which distributions a model's parts come from: recorded beside it, and named when missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import metadata

from flexvar.config import ComponentSpec, ModelConfig
from flexvar.errors import PluginError
from flexvar.plugin import Kind, Registry
from flexvar.plugin.registry import FIRST_PARTY


def required(
    model: ModelConfig, samplers: Iterable[ComponentSpec], registry: Registry
) -> dict[str, str] | None:
    """``"backbone mean_mixer"`` -> ``distribution==version``; None if all parts are flexvar's.

    A plugin that was added by hand has no version, and stands by its name alone.
    """
    found = {}
    for kind, spec in [*_parts(model), *(("sampler", one) for one in samplers)]:
        try:
            distribution = registry.find(kind, spec.name).distribution
        except PluginError:
            continue
        if distribution != FIRST_PARTY:
            version = _version(distribution)
            pinned = distribution if version is None else f"{distribution}=={version}"
            found[f"{kind} {spec.name}"] = pinned
    return found or None


def missing(model: ModelConfig, recorded: Mapping[str, str] | None, registry: Registry) -> str:
    """What has to be installed for a model, as a sentence with the line that does; or nothing."""
    gone: dict[str, list[str]] = {}
    for kind, spec in _parts(model):
        pinned = (recorded or {}).get(f"{kind} {spec.name}")
        if pinned is None:
            continue
        try:
            registry.find(kind, spec.name)
        except PluginError:
            gone.setdefault(pinned, []).append(f"{kind} {spec.name}")
    sentences = []
    for pinned, parts in gone.items():
        here = _version(pinned.partition("==")[0])
        state = "is not installed" if here is None else f"is here in version {here}, without it"
        sentences.append(
            f"{' and '.join(parts)}: of {pinned}, which {state}. Install it: pip install {pinned}"
        )
    return " ".join(sentences)


def _parts(model: ModelConfig) -> list[tuple[Kind, ComponentSpec]]:
    kinds: list[Kind] = ["tokenizer", "schedule"]
    if model.backbone is not None:
        kinds += ["backbone", "position", "conditioner"]
    return [(kind, getattr(model, kind)) for kind in kinds]


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
