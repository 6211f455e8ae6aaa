"""Compiles every Triton kernel for Hopper, without a GPU, and prints registers and spills as JSON.

Run by test_kernels.py as a process of its own. Kernels are taken as they are launched for the usual
arguments, gradients among them.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from flexvar_plugins.backbones import mamba, transformer  # noqa: F401 - define kernels
from flexvar_plugins.tokenizers import cnn  # noqa: F401
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from flexvar.generation import draw  # noqa: F401
from flexvar.ops import fusion

TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int64: "*i64"}
TARGET = GPUTarget("cuda", 90, 32)


def launched() -> list[tuple[str, JITFunction, dict[str, Any], dict[str, Any]]]:
    """Every launch of the usual arguments: the fusion, the kernel, its arguments, its options."""
    found = []

    def record(self: JITFunction, *args: Any, grid: Any, warmup: bool, **given: Any) -> None:
        options = {key: given.pop(key) for key in ("num_warps", "num_stages") if key in given}
        found.append(
            (fused.name, self, dict(zip(self.arg_names, args, strict=False)) | given, options)
        )

    JITFunction.run = record
    for fused in fusion.KNOWN.values():
        if fused.name == "linear_gelu":
            continue  # cuBLASLt's
        dtype = fused.dtypes[-1]
        usual = fused.usual(torch.Generator().manual_seed(0))
        fusion.results(fused, fused.fused, usual, torch.device("cpu"), dtype)
    return found


def typed(kernel: JITFunction, arguments: dict[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """The signature of a launch, and what is constant in it."""
    constant = {one.name for one in kernel.params if one.is_constexpr}
    signature = {}
    for name, value in arguments.items():
        if name in constant:
            signature[name] = "constexpr"
        elif isinstance(value, torch.Tensor):
            signature[name] = TYPES[value.dtype]
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32"
    return signature, {name: arguments[name] for name in constant}


def assembled(ptx: str) -> dict[str, int]:
    """Registers and bytes of spills of compiled code, by one of Triton's own assemblers."""
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    with tempfile.TemporaryDirectory() as folder:
        code = Path(folder) / "kernel.ptx"
        code.write_text(ptx)
        for tool in ("ptxas", "ptxas-blackwell"):  # newer code than the first knows
            command = [tools / tool, "-v", "--gpu-name=sm_90a", code, "-o", f"{folder}/cubin"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if not done.returncode:
                break
    said = done.stderr
    assert not done.returncode, said
    (registers,) = re.findall(r"Used (\d+) registers", said)
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", said)
    return {"registers": int(registers), "spills": sum(map(int, spills))}


def main() -> None:
    rows = []
    for name, kernel, arguments, options in launched():
        signature, constants = typed(kernel, arguments)
        source = ASTSource(kernel, signature, constants)
        made = triton.compile(source, target=TARGET, options=options)
        figures = assembled(made.asm["ptx"])
        row = {"fusion": name, "kernel": kernel.__name__, **options, **figures}
        rows.append(row | {"shared": made.metadata.shared})
    json.dump(rows, sys.stdout)


if __name__ == "__main__":
    main()
