"""Prints that mamba-ssm's unmodified Triton kernels agree with the reference, or fails.

Run by test_ssd.py as a process of its own with TRITON_INTERPRET=1, on a machine without a GPU:
the interpreter runs the kernels on the CPU, but their callers ask CUDA for its device and the
autotuner for timings, so both get stand-ins here.
"""

from __future__ import annotations

import contextlib
import sys
from dataclasses import replace
from types import SimpleNamespace

import torch
from flexvar_plugins.backbones import scan_kernels, ssd
from test_ssd import NAMES, assert_same, make_inputs, run
from triton.runtime.autotuner import Autotuner


def main() -> None:
    torch.cuda.device = lambda *_: contextlib.nullcontext()
    torch.cuda.get_device_properties = lambda *_: SimpleNamespace(
        multi_processor_count=1, total_memory=2**30, name="interpreter", major=9, minor=0
    )
    Autotuner._bench = lambda *_, **__: [1.0, 1.0, 1.0]
    if reason := scan_kernels.probe("mamba_ssm").reason:
        sys.exit(reason)
    for length in (1, 2, 17, 37):
        for state in (True, False):
            inputs = make_inputs(length, batch=1, heads=2, states=16, state=state)
            assert_same(run(scan_kernels.kernel_scan, inputs, 16), run(ssd.reference, inputs), 1e-4)
    # State carried from scale to scale.
    whole = make_inputs(55, batch=1, heads=2, states=16, state=False)
    parts, state, start = [], None, 0
    for count in (1, 4, 9, 16, 25):
        cut = slice(start, start + count)
        sequences = {name: getattr(whole, name)[:, cut] for name in NAMES if "BL" in name}
        y, state = scan_kernels.kernel_scan(replace(whole, **sequences, state_BHdN=state), 16)
        parts.append(y)
        start += count
    y_BLHd, state_BHdN = ssd.reference(whole)
    ours = {"y": torch.cat(parts, dim=1), "state": state}
    assert_same(ours, {"y": y_BLHd, "state": state_BHdN}, 1e-4)
    print("mamba-ssm's kernels agree with the reference, forward, backward and carried over")


if __name__ == "__main__":
    main()
