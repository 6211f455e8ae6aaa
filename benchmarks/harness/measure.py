"""Timings: repeated, synchronised, with their spread; and the memory they took."""

from __future__ import annotations

import ctypes
import resource
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

# The fixed product that is timed in turn with everything else, so that a machine that was busy
# can be told from code that is slower: rows and columns on a CPU and on a GPU.
YARDSTICK_CPU, YARDSTICK_GPU = 768, 4096
MIB = 2**20


def chosen_clock(device: torch.device) -> tuple[str, Callable[[], float]]:
    """The clock that other processes disturb least, and its name.

    On a CPU with one thread that is the process's own CPU time.
    """
    if device.type == "cpu" and torch.get_num_threads() == 1:
        return "CPU time of the process", time.process_time
    return "wall clock", time.perf_counter


def interleaved(
    candidates: Mapping[str, Callable[[], Any]],
    repeats: int,
    warm_up: int = 1,
    *,
    clock: Callable[[], float] = time.perf_counter,
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
            times[name].append(seconds_of(run, clock))
    return times


def seconds_of(run: Callable[[], Any], clock: Callable[[], float] = time.perf_counter) -> float:
    """Seconds of one call, the GPU's work included."""
    synchronise()
    start = clock()
    run()
    synchronise()
    return clock() - start


def timed(
    run: Callable[[], Any],
    device: str | torch.device,
    *,
    repeats: int,
    seconds: float = 30.0,
    least: int = 3,
) -> dict[str, float]:
    """The summary of a function's seconds, the first call (compiling, tuning) apart.

    At most ``repeats`` calls, and after ``least`` of them no more once ``seconds`` have passed.
    ``yardstick_s`` is the median of a fixed matrix product that took turns with it.
    """
    first = seconds_of(run)
    yardstick = make_yardstick(torch.device(device))
    yardstick()
    own: list[float] = []
    fixed: list[float] = []
    begun = time.perf_counter()
    while len(own) < repeats:
        if len(own) >= least and time.perf_counter() - begun > seconds:
            break
        fixed.append(seconds_of(yardstick))
        own.append(seconds_of(run))
    return {
        **summary(own),
        "first_call_s": round(first, 6),
        "yardstick_s": round(statistics.median(fixed), 6),
    }


def make_yardstick(device: torch.device) -> Callable[[], Any]:
    """A fixed fp32 matrix product on a device."""
    side = YARDSTICK_CPU if device.type == "cpu" else YARDSTICK_GPU
    a = torch.ones(side, side, device=device)
    out = torch.empty_like(a)
    return lambda: torch.mm(a, a, out=out)


def synchronise() -> None:
    """Wait for the GPU, if there is one in use."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def summary(seconds: list[float]) -> dict[str, float]:
    """Median, lower and upper quartile, and the 90th percentile, in seconds."""
    ordered = sorted(seconds)
    low, high, late = (ordered[round((len(ordered) - 1) * q)] for q in (0.25, 0.75, 0.9))
    return {
        "median_s": round(statistics.median(ordered), 6),
        "low_s": round(low, 6),
        "high_s": round(high, 6),
        "p90_s": round(late, 6),
        "repeats": len(ordered),
    }


def is_timing(value: Any) -> bool:
    """Whether a figure is what `summary` gives."""
    return isinstance(value, Mapping) and {"median_s", "low_s", "high_s"} <= value.keys()


class PeakMemory:
    """The most memory in use inside a ``with`` block, in MiB.

    On CUDA what torch allocated; else the resident memory of the process, torch itself included,
    where the system lets its high-water mark be reset (Linux), else since the process began.
    """

    def __init__(self, device: str | torch.device) -> None:
        self.device = torch.device(device)
        self.mib = 0.0

    def __enter__(self) -> PeakMemory:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            _forget_peak()
        return self

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            synchronise()
            self.mib = torch.cuda.max_memory_allocated(self.device) / MIB
        else:
            self.mib = _peak_resident() / MIB
        self.mib = round(self.mib, 1)


def held_mib(state: Any) -> float:
    """MiB of the floating-point tensors that an object holds, each storage once; no weights.

    Index tables, which are shared between calls, do not count.
    """
    storages: dict[int, int] = {}
    seen: set[int] = set()
    waiting = [state]
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, nn.Module | nn.Parameter | type):
            continue
        seen.add(id(one))
        if isinstance(one, torch.Tensor):
            if one.is_floating_point():
                storage = one.untyped_storage()
                storages[storage.data_ptr()] = storage.nbytes()
        elif isinstance(one, Mapping):
            waiting.extend(one.values())
        elif isinstance(one, list | tuple):
            waiting.extend(one)
        else:
            waiting.extend(getattr(one, "__dict__", {}).values())
            slots = [name for kind in type(one).__mro__ for name in getattr(kind, "__slots__", ())]
            waiting.extend(getattr(one, name) for name in slots if hasattr(one, name))
    return round(sum(storages.values()) / MIB, 2)


def _forget_peak() -> None:
    """Hand freed memory back, and let the high-water mark start from what is in use."""
    if not sys.platform.startswith("linux"):
        return
    try:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        return


def _peak_resident() -> int:
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
