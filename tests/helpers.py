"""What tests share: where the golden checkpoints are, and a pipeline small enough to run."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from flexvar import Layout, Pipeline

GOLDEN = Path(__file__).parent / "golden"
TINY_CNN = {
    "channels": 32,
    "channel_multipliers": [1, 1, 1],
    "blocks": 1,
    "latent_channels": 32,
    "vocab_size": 61,
    "code_dim": 8,
}
TINY: dict[str, Any] = {
    "tokenizer": {"name": "multiscale", **TINY_CNN},
    "backbone": {"name": "transformer", "depth": 2, "width": 64, "num_heads": 2},
    "num_classes": 5,
    "class_names": ["ant", "bee", "cat", "dog", "eel"],
}


@dataclass(frozen=True)
class Golden:
    """One published implementation's small checkpoint and what it computes."""

    name: str
    config: dict[str, Any]
    pipe: Pipeline
    io: dict[str, torch.Tensor]

    @property
    def layout(self) -> Layout:
        return Layout.of(*self.config["scales"])


def signalled(
    command: Sequence[object], begun: Callable[[], bool], signals: Sequence[int], *, pause: float
) -> tuple[subprocess.Popen[str], str]:
    """A command that leads a group of its own, ended by signals to all of it; what it said.

    begun: whether it is where the signals should come; pause: seconds after each.
    """
    process = subprocess.Popen(
        [*map(str, command)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    until = time.monotonic() + 500
    try:
        while not begun() and time.monotonic() < until:
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.1)
        for number in signals:
            os.killpg(process.pid, number)
            time.sleep(pause)
        said, _ = process.communicate(timeout=400)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return process, said


def shake(pipe: Pipeline, seed: int = 0) -> Pipeline:
    """Weights that make every part matter: fresh gates of 1e-3 would hide a wrong branch."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in pipe.model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise * (0.5 / max(parameter.shape[-1], 4) ** 0.5))
    return pipe


def allocated(function: Callable[[], object]) -> tuple[int, int]:
    """Bytes torch's allocator had handed out at the most, and the largest piece, in a second call.

    Of what was there before a call nothing is counted.
    """
    function()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as run:
        function()
    assert run.profiler is not None
    events = [e for e in run.profiler.kineto_results.events() if e.name() == "[memory]"]
    live = most = largest = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        most, largest = max(most, live), max(largest, event.nbytes())
    return most, largest
