"""The suites, one module each, by the name they are run by; plugins' after the first party's."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import import_module
from typing import Any

from flexvar.errors import FlexvarError
from flexvar.plugin import default_registry

# A module is imported when its suite is asked for.
SUITES = {
    "generate": "benchmarks.suites.generate",
    "generate-cpu": "benchmarks.suites.generate_cpu",
    "precision": "benchmarks.suites.precision",
    "train": "benchmarks.suites.train",
    "tokenizer": "benchmarks.suites.tokenizer",
    "scan": "benchmarks.suites.scan",
    "held-out": "benchmarks.suites.held_out",
    "growth": "benchmarks.suites.growth",
    "ablation": "studies.ablation.suite",
    "backbones": "studies.backbones.suite",
    "editing": "benchmarks.suites.editing",
    "launches": "benchmarks.suites.launches",
    "gpu": "benchmarks.suites.gpu",
}
# Those that train many models, which takes an hour or more.
TRAINING = ("ablation", "backbones")


def names() -> list[str]:
    """All suites, the first party's first."""
    return [*SUITES, *(n for n in default_registry().names("benchmark") if n not in SUITES)]


def load(name: str) -> Any:
    """The module of a suite: SUMMARY, cases(options), sections(rows).

    Raises `FlexvarError` for an unknown name, and for a plugin's module that lacks one of them.
    """
    if name in SUITES:
        return import_module(SUITES[name])
    if name not in names() and "/" not in name:
        near = get_close_matches(name, names(), n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise FlexvarError(f"Unknown suite {name!r}.{hint} Suites: {', '.join(names())}.")
    module = default_registry().load("benchmark", name)
    missing = [n for n in ("SUMMARY", "cases", "sections") if not hasattr(module, n)]
    if missing:
        raise FlexvarError(
            f"Suite {name!r}: {module.__name__} lacks {', '.join(missing)}; "
            "benchmarks.harness.suite says what a suite is."
        )
    return module


def summary(name: str) -> str:
    """One line about a suite, or why there is none."""
    try:
        return str(load(name).SUMMARY)
    except FlexvarError as error:
        return f"cannot be loaded: {error}"
