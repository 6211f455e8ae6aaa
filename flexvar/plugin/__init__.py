"""Plugins: hook specifications, the Component record, and the Registry."""

from flexvar.plugin.component import KINDS, OFFERS, Component, Kind, Offer
from flexvar.plugin.hookspecs import hookimpl, hookspec
from flexvar.plugin.registry import Failure, Provided, Registry, default_registry

__all__ = [
    "KINDS",
    "OFFERS",
    "Component",
    "Failure",
    "Kind",
    "Offer",
    "Provided",
    "Registry",
    "default_registry",
    "hookimpl",
    "hookspec",
]
