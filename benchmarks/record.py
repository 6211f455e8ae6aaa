"""What a figure is made of: repeated timings, the machine, the versions, the commit."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def interleaved(
    candidates: Mapping[str, Callable[[], Any]], repeats: int, warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of each candidate, ``repeats`` times, taking turns.

    Turns rather than blocks, so that a machine that slows down slows all of them alike.
    """
    for _ in range(warm_up):
        for run in candidates.values():
            run()
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for _ in range(repeats):
        for name, run in candidates.items():
            synchronise()
            start = time.perf_counter()
            run()
            synchronise()
            times[name].append(time.perf_counter() - start)
    return times


def synchronise() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def summary(seconds: list[float]) -> dict[str, float]:
    """Median, and the spread from the lower to the upper quartile, in seconds."""
    ordered = sorted(seconds)
    low, high = (ordered[round((len(ordered) - 1) * q)] for q in (0.25, 0.75))
    return {
        "median_s": round(statistics.median(ordered), 5),
        "low_s": round(low, 5),
        "high_s": round(high, 5),
        "repeats": len(ordered),
    }


def machine() -> dict[str, Any]:
    """The machine and the versions that a figure holds for."""
    import flexvar

    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "flexvar": flexvar.__version__,
        "commit": _commit(),
    }


def append(row: Mapping[str, Any], path: Path | None = None) -> Path:
    """Add a row to the results file of this machine; return its path."""
    if path is None:
        info = machine()
        name = re.sub(r"[^a-z0-9]+", "-", str(info["gpu"] or info["cpu"]).lower()).strip("-")
        path = RESULTS / f"{name}-{info['threads']}t.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**row, "machine": machine(), "time": time.strftime("%F %T")}) + "\n")
    return path


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    match = re.search(r"model name\s*:\s*(.+)", text)
    return match[1] if match else platform.machine()


def _commit() -> str:
    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], capture_output=True, text=True, cwd=Path(__file__).parent
        )
        return done.stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("-changed" if git("status", "--short") else "")
