"""How busy the machine was while a case ran: a row that had to share its CPUs says so."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

# A quiet machine's own housekeeping stays well below this share.
BUSY = 0.05
PROC = Path("/proc")


class Load:
    """The load of the machine inside a ``with`` block, seen from this process.

    found: ``waited``, the share of the time its threads wanted to run in which they waited for a
    CPU; ``stolen``, the share of all CPU time that other virtual machines took; ``average``, the
    system's load average (1 minute) at the start; ``busy``, whether timings suffered. waited and
    stolen are None on systems that do not count them (all but Linux); there an average above the
    number of CPUs is busy.
    """

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def __enter__(self) -> Load:
        self._average = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
        self._threads, self._stolen = _threads(), _stolen()
        return self

    def __exit__(self, *_: object) -> None:
        waited = stolen = None
        if self._threads and (now := _threads()):
            ran, delayed = (
                sum(
                    after[i] - self._threads.get(thread, (0, 0))[i] for thread, after in now.items()
                )
                for i in (0, 1)
            )
            waited = round(delayed / max(1, ran + delayed), 4)
        if self._stolen and (later := _stolen()):
            taken, whole = (b - a for a, b in zip(self._stolen, later, strict=True))
            stolen = round(taken / max(1, whole), 4)
        known = [share for share in (waited, stolen) if share is not None]
        busy = max(known) > BUSY if known else (self._average or 0.0) > (os.cpu_count() or 1)
        self.found = {"waited": waited, "stolen": stolen, "average": self._average, "busy": busy}


def told(load: dict[str, Any]) -> str:
    """What a row's load was, in words."""
    parts = []
    if load.get("waited") is not None:
        parts.append(f"{100 * load['waited']:.0f} % of its time waiting for a CPU")
    if load.get("stolen"):
        parts.append(f"{100 * load['stolen']:.0f} % taken by other virtual machines")
    if load.get("average") is not None:
        parts.append(f"load average {load['average']:.1f}")
    return ", ".join(parts) or "not known"


def _threads() -> dict[str, tuple[int, int]]:
    """Nanoseconds on a CPU and waiting for one, of every thread of this process."""
    found = {}
    for path in PROC.glob("self/task/*/schedstat"):
        try:
            ran, delayed, _ = path.read_text().split()
        except (OSError, ValueError):
            continue  # it ended meanwhile
        found[path.parent.name] = (int(ran), int(delayed))
    return found


def _stolen() -> tuple[int, int] | None:
    """Ticks that other virtual machines took, and all ticks of all CPUs."""
    try:
        first = (PROC / "stat").read_text().split("\n", 1)[0].split()
        ticks = [int(word) for word in first[1:9]]
    except (OSError, ValueError):
        return None
    return (ticks[7], sum(ticks)) if len(ticks) == 8 else None
