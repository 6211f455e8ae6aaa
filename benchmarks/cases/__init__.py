"""The suites, one module each, by the name they are run by."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

# name -> (module, one line); a module is imported when its suite runs.
SUITES: dict[str, tuple[str, str]] = {
    "generate-cpu": (
        "benchmarks.cases.generate_cpu",
        "One 256 px image of d16 on a CPU, against the plain loop, fp32 and bf16",
    ),
    "editing": (
        "benchmarks.cases.editing",
        "Zero-shot tasks of the bundled model, against a wrong class, bicubic, and chance",
    ),
}


def load(name: str) -> Callable[..., list[dict[str, Any]]]:
    """The function that runs a suite and returns its rows."""
    return import_module(SUITES[name][0]).run
