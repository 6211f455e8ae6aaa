"""The implementations of scan and convolution: which can be had, and which one runs.

All take and give what `flexvar_plugins.backbones.ssd` says.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from flexvar.components.implementation import Kernel
from flexvar.errors import PluginError
from flexvar_plugins.backbones.ssd import Convolve, Inputs, Scan, chunked, convolve, reference

Implementation = Literal["auto", "reference", "torch", "kernels", "fla"]
IMPLEMENTATIONS: tuple[Implementation, ...] = get_args(Implementation)

INSTALL = {
    "kernels": (
        "pip install packaging ninja wheel setuptools transformers && "
        "pip install --no-build-isolation causal-conv1d mamba-ssm "
        "(after torch, with a CUDA compiler)"
    ),
    "fla": "pip install fla-core",
}
# Tokens per chunk that the Triton kernels are published with.
KERNEL_CHUNK = 256
_log = logging.getLogger("flexvar")


@dataclass(frozen=True, slots=True)
class Package:
    """What importing a package of kernels gave: its functions, or why there are none."""

    functions: tuple[Callable[..., Any], ...] = ()
    reason: str = ""


@cache
def probe(name: Literal["mamba_ssm", "causal_conv1d", "fla"]) -> Package:
    """Import a package's kernels for real: one built without its kernels also has metadata."""
    load = {"mamba_ssm": _import_mamba, "causal_conv1d": _import_convolution, "fla": _import_fla}
    try:
        return Package((load[name](),))
    except Exception as error:
        return Package(reason=f"{name}: {type(error).__name__}: {error}")


def _import_mamba() -> Callable[..., Any]:
    # The package imports the compiled kernels of Mamba-1 at its top. Where it was built without
    # them an empty module stands in while it is imported; Mamba-2 calls none of them.
    compiled = "selective_scan_cuda"
    stand_in = compiled not in sys.modules and importlib.util.find_spec(compiled) is None
    if stand_in:
        sys.modules[compiled] = ModuleType(compiled)
    try:
        module = importlib.import_module("mamba_ssm.ops.triton.ssd_combined")
    finally:
        if stand_in:
            del sys.modules[compiled]
    return module.mamba_chunk_scan_combined


def _import_convolution() -> Callable[..., Any]:
    return importlib.import_module("causal_conv1d").causal_conv1d_fn


def _import_fla() -> Callable[..., Any]:
    return importlib.import_module("fla.ops.simple_gla").chunk_simple_gla


def kernel_scan(inputs: Inputs, chunk_size: int | None = None) -> tuple[Tensor, Tensor]:
    """mamba-ssm's Triton kernels; chunk_size a power of two."""
    (function,) = probe("mamba_ssm").functions
    y_BLHd, state_BHdN = function(
        inputs.x_BLHd,
        inputs.dt_BLH,
        inputs.rate_H,
        inputs.write_BLN[:, :, None],
        inputs.read_BLN[:, :, None],
        chunk_size or KERNEL_CHUNK,
        D=inputs.skip_H,
        initial_states=inputs.state_BHdN,
        return_final_states=True,
    )
    return y_BLHd, state_BHdN.float()


def kernel_convolve(
    x_BLE: Tensor, weight_EW: Tensor, bias_E: Tensor, tail_BTE: Tensor | None
) -> tuple[Tensor, Tensor]:
    """causal-conv1d's kernel; as `convolve`. The number of channels is a multiple of 8."""
    (function,) = probe("causal_conv1d").functions
    if tail_BTE is None:
        tail_BTE = x_BLE.new_zeros(x_BLE.shape[0], weight_EW.shape[1] - 1, x_BLE.shape[2])
    # The kernel wants channels last, and strides that are multiples of 8, which a slice of a
    # wider tensor need not have. `contiguous` would leave one row of one token as it is, with the
    # strides of the wider tensor.
    y_BEL, tail_BET = function(
        x_BLE.clone(memory_format=torch.contiguous_format).transpose(1, 2),
        weight_EW.to(x_BLE.dtype),
        bias_E.to(x_BLE.dtype),
        initial_states=tail_BTE.transpose(1, 2),
        return_final_states=True,
        activation="silu",
    )
    return y_BEL.transpose(1, 2), tail_BET.transpose(1, 2)


def fla_scan(inputs: Inputs, chunk_size: int | None = None) -> tuple[Tensor, Tensor]:
    """flash-linear-attention's gated linear attention, which is the same scan: q read, k write."""
    del chunk_size
    (function,) = probe("fla").functions
    x_BLHd, dtype, heads = inputs.x_BLHd, inputs.x_BLHd.dtype, inputs.x_BLHd.shape[2]
    read_BLHN, write_BLHN = (
        t[:, :, None].expand(-1, -1, heads, -1).contiguous()
        for t in (inputs.read_BLN, inputs.write_BLN)
    )
    state_BHdN = inputs.state_BHdN
    y_BLHd, state_BHNd = function(
        q=read_BLHN,
        k=write_BLHN,
        v=x_BLHd * inputs.dt_BLH[..., None].to(dtype),
        g=inputs.dt_BLH * inputs.rate_H,
        scale=1.0,
        initial_state=None if state_BHdN is None else state_BHdN.mT.contiguous(),
        output_final_state=True,
    )
    return torch.addcmul(y_BLHd, x_BLHd, inputs.skip_H[:, None].to(dtype)), state_BHNd.mT


@dataclass(frozen=True, slots=True)
class Kernels:
    """The two operations of a mixer, by one implementation."""

    scan: Scan
    convolve: Convolve


KERNELS: dict[str, Kernels] = {
    "reference": Kernels(reference, convolve),
    "torch": Kernels(chunked, convolve),
    "kernels": Kernels(kernel_scan, kernel_convolve),
    "fla": Kernels(fla_scan, convolve),
}
PACKAGES: dict[str, tuple[Literal["mamba_ssm", "causal_conv1d", "fla"], ...]] = {
    "kernels": ("mamba_ssm", "causal_conv1d"),
    "fla": ("fla",),
}


def why_not_installed(implementation: str) -> str:
    """Why the packages of an implementation cannot be imported; empty if they can."""
    reasons = [probe(package).reason for package in PACKAGES.get(implementation, ())]
    return "; ".join(reason for reason in reasons if reason)


def require(implementation: Implementation) -> None:
    """Raise `PluginError` if a named implementation is not installed."""
    if implementation in PACKAGES and (reason := why_not_installed(implementation)):
        raise PluginError(
            f"backbone.implementation: {implementation!r} cannot be used here ({reason}). "
            f"Install it: {INSTALL[implementation]}. Or say 'torch', which needs no package, "
            "or 'auto'."
        )


def available() -> tuple[Kernel, ...]:
    """All implementations, and whether they are installed."""
    found = [
        Kernel("reference", True, "plain recurrence, any device"),
        Kernel("torch", True, "matrix products over chunks, any device"),
    ]
    for name in PACKAGES:
        reason = why_not_installed(name)
        install = INSTALL[name] if reason else ""
        found.append(Kernel(name, not reason, reason or "CUDA", install))
    return tuple(found)


def why_not_kernels(device: torch.device, dtype: torch.dtype) -> str:
    """Why ``auto`` does not take mamba-ssm for a device and dtype; empty if it does."""
    if device.type != "cuda":
        return f"mamba-ssm runs on CUDA only, the model is on {device.type}"
    if dtype == torch.float32:
        return "Triton rounds fp32 products to TF32; fp16 and bf16 lose nothing by it"
    return why_not_installed("kernels")


@cache
def choose(implementation: Implementation, device: torch.device, dtype: torch.dtype) -> str:
    """The implementation that runs: ``auto`` decided and logged once per device and dtype.

    Raises `PluginError` if a named one cannot run there; nothing falls back silently.
    """
    if implementation == "auto":
        reason = why_not_kernels(device, dtype)
        chosen = "torch" if reason else "kernels"
        if not torch.compiler.is_compiling():
            _log.info("scan: %s (%s)", chosen, reason or "mamba-ssm and causal-conv1d are there")
        return chosen
    if implementation in PACKAGES and device.type != "cuda":
        raise PluginError(
            f"backbone.implementation: {implementation!r} cannot run here: it runs on CUDA only, "
            f"the model is on {device.type}. Say 'torch' or 'auto'."
        )
    return implementation
