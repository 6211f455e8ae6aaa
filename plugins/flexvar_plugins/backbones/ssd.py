"""The selective state-space scan of Mamba-2 and its convolution: a plain reference and fast ones.

Per head, with a state S (d,N) that starts at the one given or at zero (arXiv 2405.21060, eq. 1
and section 7):

    S_t = exp(dt_t * rate) * S_(t-1) + dt_t * x_t write_t^T        y_t = S_t read_t + skip * x_t

``write`` and ``read`` are the paper's B and C, shared by all heads; ``rate`` is its A, negative;
``skip`` its D. Shapes: x (B,L,H,d), H heads of d channels; dt (B,L,H); rate and skip (H);
write and read (B,L,N), N the state size; states (B,H,d,N). dt, rate, skip and states are fp32,
y has the dtype of x. The state that comes back continues the sequence in a next call.
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
import torch.nn.functional as F
from torch import Tensor

from flexvar.errors import PluginError
from flexvar.kernels import Kernel

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
# Tokens per chunk unless an option says otherwise. The work inside a chunk grows with its length,
# the number of states with its inverse. 64 was fastest on two CPU cores (benchmarks/scan.py);
# 256 is what the Triton kernels are published with.
CHUNK, KERNEL_CHUNK = 64, 256
_log = logging.getLogger("flexvar")


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a scan reads; see the top of this file. state_BHdN is None for zeros."""

    x_BLHd: Tensor
    dt_BLH: Tensor
    rate_H: Tensor
    write_BLN: Tensor
    read_BLN: Tensor
    skip_H: Tensor
    state_BHdN: Tensor | None = None


Scan = Callable[[Inputs, int | None], tuple[Tensor, Tensor]]
Convolve = Callable[[Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]


def reference(inputs: Inputs, chunk_size: int | None = None) -> tuple[Tensor, Tensor]:
    """The definition, token by token in fp32: y (B,L,H,d) and the state after the last token."""
    del chunk_size
    x_BLHd, write_BLN, read_BLN = (
        t.float() for t in (inputs.x_BLHd, inputs.write_BLN, inputs.read_BLN)
    )
    state_BHdN = _state_or_zeros(inputs)
    outputs = []
    for token in range(x_BLHd.shape[1]):
        x_BHd, dt_BH = x_BLHd[:, token], inputs.dt_BLH[:, token]
        decay_BH = torch.exp(dt_BH * inputs.rate_H)
        written = (dt_BH[..., None] * x_BHd)[..., None] * write_BLN[:, token, None, None]
        state_BHdN = decay_BH[..., None, None] * state_BHdN + written
        y_BHd = (state_BHdN * read_BLN[:, token, None, None]).sum(dim=-1)
        outputs.append(y_BHd + inputs.skip_H[:, None] * x_BHd)
    return torch.stack(outputs, dim=1).to(inputs.x_BLHd.dtype), state_BHdN


def chunked(inputs: Inputs, chunk_size: int | None = None) -> tuple[Tensor, Tensor]:
    """The same in matrix products over chunks of tokens (arXiv 2405.21060, section 6).

    Inside a chunk, y is a masked product of read, write and x, as in attention; between chunks
    only the state passes. Decays and states are fp32; the products run in the dtype of x.
    """
    x_BLHd, dtype = inputs.x_BLHd, inputs.x_BLHd.dtype
    length, heads = x_BLHd.shape[1:3]
    # Chunks of equal length waste the least padding. A padded token has dt = 0: it neither
    # writes nor decays.
    count = -(-length // (chunk_size or CHUNK))
    size = -(-length // count)

    def cut(t: Tensor) -> Tensor:
        padded = _pad(t, count * size - length)
        return padded.unflatten(1, (count, size))

    dt_BcqH = cut(inputs.dt_BLH)
    write_BcqN, read_BcqN = cut(inputs.write_BLN), cut(inputs.read_BLN)
    x_BcqHd = cut(x_BLHd) * dt_BcqH[..., None].to(dtype)

    # log of the decay from before the chunk to after each of its tokens
    log_BcqH = (dt_BcqH * inputs.rate_H).cumsum(dim=2)
    log_BcHq = log_BcqH.transpose(2, 3)
    total_BcH = log_BcHq[..., -1]

    # Inside: token i reads what token j <= i wrote. The upper half is masked before the
    # exponential, where it would overflow.
    span_BcHqq = log_BcHq[..., :, None] - log_BcHq[..., None, :]
    later_qq = torch.ones(size, size, dtype=torch.bool, device=x_BLHd.device).triu(1)
    decay_BcHqq = span_BcHqq.masked_fill(later_qq, float("-inf")).exp()
    weight_Bcqq = read_BcqN @ write_BcqN.mT
    y_BcHqd = (weight_Bcqq[:, :, None] * decay_BcHqq).to(dtype) @ x_BcqHd.transpose(2, 3)
    y_BcqHd = y_BcHqd.transpose(2, 3)

    # Between: what a chunk adds to the state, and what its tokens read of the state before it.
    # All heads share write and read, so each is one product over (H d).
    to_end_BcqH = (total_BcH[:, :, None] - log_BcqH).exp()
    kept_BcqE = (x_BcqHd * to_end_BcqH[..., None].to(dtype)).flatten(3)
    added_BcHdN = (kept_BcqE.mT @ write_BcqN).float().unflatten(2, (heads, -1))
    state_BHdN, read_parts = inputs.state_BHdN, []
    decays_BcH11 = total_BcH.exp()[..., None, None]
    # unbind, not indexing: the gradient of an index is a tensor of zeros as large as the whole.
    chunks = zip(read_BcqN.unbind(1), added_BcHdN.unbind(1), decays_BcH11.unbind(1), strict=True)
    for read_BqN, added_BHdN, decay_BH11 in chunks:
        if state_BHdN is None:
            read_parts.append(x_BLHd.new_zeros(read_BqN.shape[:2] + kept_BcqE.shape[3:]))
            state_BHdN = added_BHdN
            continue
        read_parts.append(read_BqN @ state_BHdN.flatten(1, 2).to(dtype).mT)
        state_BHdN = torch.addcmul(added_BHdN, decay_BH11, state_BHdN)
    assert state_BHdN is not None
    from_state_BcqHd = torch.stack(read_parts, dim=1).unflatten(-1, (heads, -1))
    y_BcqHd = torch.addcmul(y_BcqHd, from_state_BcqHd, log_BcqH.exp()[..., None].to(dtype))
    y_BLHd = y_BcqHd.flatten(1, 2)[:, :length]
    return torch.addcmul(y_BLHd, x_BLHd, inputs.skip_H[:, None].to(dtype)), state_BHdN


def _pad(t: Tensor, count: int) -> Tensor:
    return F.pad(t, (0, 0) * (t.dim() - 2) + (0, count)) if count else t


def _state_or_zeros(inputs: Inputs) -> Tensor:
    if inputs.state_BHdN is not None:
        return inputs.state_BHdN
    batch, _, heads, dim = inputs.x_BLHd.shape
    return inputs.dt_BLH.new_zeros(batch, heads, dim, inputs.write_BLN.shape[-1])


def convolve(
    x_BLE: Tensor, weight_EW: Tensor, bias_E: Tensor, tail_BTE: Tensor | None
) -> tuple[Tensor, Tensor]:
    """SiLU of the causal convolution per channel, (B,L,E), and the last W-1 inputs, (B,W-1,E).

    tail_BTE: the inputs before x, T = W-1 of them; None for zeros. With fewer than W-1 tokens
    the new tail still holds part of the old one.
    """
    width = weight_EW.shape[1]
    if tail_BTE is None:
        joined_BTE = F.pad(x_BLE, (0, 0, width - 1, 0))
    else:
        joined_BTE = torch.cat([tail_BTE, x_BLE], dim=1)
    # As an image of one row in channels-last order nothing has to be transposed: 4 to 6 times
    # faster than conv1d on a CPU.
    image_BE1T = joined_BTE.transpose(1, 2)[:, :, None]
    y_BE1L = F.conv2d(image_BE1T, weight_EW[:, None, None], bias_E, groups=weight_EW.shape[0])
    # A copy, so that the state does not keep the whole input alive.
    tail_BTE = joined_BTE[:, 1 - width :].clone()
    return F.silu(y_BE1L[:, :, 0].transpose(1, 2)), tail_BTE


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
    # wider tensor need not have.
    y_BEL, tail_BET = function(
        x_BLE.contiguous().transpose(1, 2),
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
        _log.info("scan: %s (%s)", chosen, reason or "mamba-ssm and causal-conv1d are there")
        return chosen
    if implementation in PACKAGES and device.type != "cuda":
        raise PluginError(
            f"backbone.implementation: {implementation!r} cannot run here: it runs on CUDA only, "
            f"the model is on {device.type}. Say 'torch' or 'auto'."
        )
    return implementation
