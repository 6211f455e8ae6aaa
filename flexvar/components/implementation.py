"""What a component says of its implementations: which can be had here, and why not the others."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Kernel:
    """One implementation of a component.

    A component class that has several offers the class methods ``kernels() -> tuple[Kernel,
    ...]`` and ``auto(device, dtype) -> str``, the name that ``auto`` takes there; `flexvar
    doctor` shows both. reason: why it cannot be had, or where it runs. install: the line that
    gets it, if it is not there.
    """

    name: str
    available: bool
    reason: str = ""
    install: str = ""
