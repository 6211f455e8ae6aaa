"""What to do when things go wrong: non-finite numbers, and a request to stop."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

# Seconds within which signals count as one.
SAME = 2.0
NOTE = b"\nStopping after this step and saving; Ctrl-C again stops at once.\n"


class Interrupted(Exception):  # noqa: N818 - asked for, no error
    """The run was asked to stop and has saved its state; step: after which one."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step}")
        self.step = step


class StopRequest:
    """Whether Ctrl-C or SIGTERM came.

    A second Ctrl-C stops at once, unless it comes within `SAME` seconds: launchers and wrappers
    pass on what the terminal has sent already, and a key that is held down is one wish.
    """

    def __init__(self) -> None:
        self.asked = False
        self._at = 0.0

    def _ask(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.asked:
            self.asked, self._at = True, now
            # Not through sys.stderr, which the interrupted code may be writing to.
            with suppress(OSError):
                os.write(2, NOTE)
        elif number == signal.SIGINT and now - self._at > SAME:
            raise KeyboardInterrupt

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Take the two signals while the block runs (in the main thread; else do nothing)."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = {
            number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)
        }
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def culprit(module: nn.Module, forward: Callable[[], object]) -> str:
    """Where non-finite numbers come from, in words.

    The first submodule with a non-finite output when ``forward`` runs again; else the first
    parameter that is non-finite or has such a gradient.
    """
    found: list[str] = []
    handles = []

    def hook_for(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(_: nn.Module, __: Any, output: Any) -> None:
            if not found and isinstance(output, Tensor) and not bool(output.isfinite().all()):
                found.append(name)

        return hook

    for name, part in module.named_modules():
        if name:
            handles.append(part.register_forward_hook(hook_for(name)))
    try:
        with torch.no_grad():
            forward()
    finally:
        for handle in handles:
            handle.remove()
    for name, parameter in module.named_parameters():
        if not bool(parameter.isfinite().all()):
            return f"the weight {name} is not finite"
    if found:
        return f"first seen in the output of {found[0]}"
    for name, parameter in module.named_parameters():
        if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
            return f"the gradient of {name} is not finite"
    return "no single module shows it when the step is run again"
