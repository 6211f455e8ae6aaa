"""Attention kernels over scales: a plain reference and the fast ones, and who is chosen.

All take q (B,Lq,H,d) and k, v (B,Lk,H,d), H heads of d numbers, and attend from every query to
every key; there is no mask anywhere. That a token sees no later scale follows from which keys
it is given: `over_scales` calls a kernel once per scale, on the keys so far.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from flexvar.components.implementation import Kernel
from flexvar.errors import PluginError
from flexvar.layout import Layout
from flexvar.ops.heads import Turns, turn

Implementation = Literal["auto", "eager", "sdpa", "flash"]
IMPLEMENTATIONS: tuple[Implementation, ...] = get_args(Implementation)
Attend = Callable[[Tensor, Tensor, Tensor, float], Tensor]

FLASH_INSTALL = (
    "pip install packaging ninja wheel setuptools && "
    "pip install --no-build-isolation flash-attn (after torch, with a CUDA compiler), "
    "or pip install flash-attn-4"
)
# The greatest scores that may be rounded to bf16, how many make it worth while, and how many are
# held at a time: what a CPU's cache holds, and little memory however large the picture.
MOST_ROUNDED, LEAST_SCORES, MOST_SCORES = 10.0, 2**10, 2**21
_log = logging.getLogger("flexvar")


def eager(q_BLHd: Tensor, k_BLHd: Tensor, v_BLHd: Tensor, scale: float) -> Tensor:
    """The definition: softmax(scale * q k^T) v, softmax in fp32. Returns (B,Lq,H,d)."""
    scores = torch.einsum("BqHd,BkHd->BHqk", q_BLHd.float(), k_BLHd.float()) * scale
    weights = scores.softmax(dim=-1)
    return torch.einsum("BHqk,BkHd->BqHd", weights, v_BLHd.float()).to(q_BLHd.dtype)


def sdpa(q_BLHd: Tensor, k_BLHd: Tensor, v_BLHd: Tensor, scale: float) -> Tensor:
    """torch's scaled_dot_product_attention, which picks its kernel by device and dtype."""
    q, k, v = (x.transpose(1, 2) for x in (q_BLHd, k_BLHd, v_BLHd))
    return F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2)


def products(q_BLHd: Tensor, k_BLHd: Tensor, v_BLHd: Tensor, scale: float) -> Tensor:
    """As `sdpa`, in two batched products around the softmax; scores are rounded to the dtype of q.

    On a CPU in bf16 that takes half the time: 256 queries, 680 keys and 32 heads of 64 numbers
    8.3 ms instead of 19.1 (one Zen 5 core), for the products inside torch's kernel are slow there.
    """
    if q_BLHd.shape[1] * k_BLHd.shape[1] < LEAST_SCORES:
        return sdpa(q_BLHd, k_BLHd, v_BLHd, scale)
    batch = q_BLHd.shape[0]
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q_BLHd, k_BLHd, v_BLHd))
    q = q if scale == 1 else q * scale
    rows = max(1, MOST_SCORES // k.shape[1])
    heads = max(1, rows // q.shape[1])
    parts = [
        torch.cat([_in_products(some, *rest) for some in part.split(rows, dim=1)], dim=1)
        for part, *rest in zip(q.split(heads), k.split(heads), v.split(heads), strict=True)
    ]
    return torch.cat(parts).unflatten(0, (batch, -1)).transpose(1, 2)


def _in_products(q_NLd: Tensor, k_NLd: Tensor, v_NLd: Tensor) -> Tensor:
    return torch.bmm(torch.bmm(q_NLd, k_NLd.mT).softmax(dim=-1), v_NLd)


def scores_may_be_rounded(
    device: torch.device, dtype: torch.dtype, scale_H1: Tensor | None
) -> bool:
    """Whether `products` serves in place of `sdpa` for unit-length queries times these scales.

    A score is the scale at most, and bf16 rounds it by 2^-9 of itself: at 4 the result is hardly
    farther off than sdpa's, at 20 four times as far. With the matrix units of newer Intel CPUs
    (AMX) torch's kernel has another way, which was not measured.
    """
    if scale_H1 is None or device.type != "cpu" or dtype != torch.bfloat16:
        return False
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    has_amx = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return not (has_amx and has_amx()) and float(scale_H1.max()) <= MOST_ROUNDED


def masked(q_BLHd: Tensor, k_BTHd: Tensor, v_BTHd: Tensor, mask_BT: Tensor | None) -> Tensor:
    """Attention (B,L,H*d) to the keys whose mask is true, or to all; the usual scale of 1/sqrt(d).

    For the few tokens of a condition: no kernel of its own is worth while.
    """
    q, k, v = (x.transpose(1, 2) for x in (q_BLHd, k_BTHd, v_BTHd))
    mask = None if mask_BT is None else mask_BT[:, None, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)


@dataclass(frozen=True, slots=True)
class Flash:
    """What importing the flash-attn packages gave: the function, or why there is none."""

    function: Callable[..., Any] | None
    package: str = ""
    reason: str = ""


@cache
def probe_flash() -> Flash:
    """Import flash-attn for real: a package built without its kernels also has metadata."""
    reasons = []
    for package in ("flash_attn", "flash_attn.cute"):
        try:
            module = __import__(package, fromlist=["flash_attn_func"])
            return Flash(module.flash_attn_func, package)
        except Exception as error:
            reasons.append(f"{package}: {type(error).__name__}: {error}")
    return Flash(None, reason="; ".join(reasons))


def flash(q_BLHd: Tensor, k_BLHd: Tensor, v_BLHd: Tensor, scale: float) -> Tensor:
    """flash-attn's kernel; CUDA, fp16 or bf16."""
    found = probe_flash()
    assert found.function is not None
    result = found.function(q_BLHd, k_BLHd, v_BLHd, softmax_scale=scale)
    # flash-attn-4 also returns the log-sum-exp.
    return result[0] if isinstance(result, tuple) else result


def require(implementation: Implementation) -> None:
    """Raise `PluginError` if a named implementation is not installed."""
    if implementation == "flash" and probe_flash().function is None:
        raise PluginError(
            "backbone.implementation: 'flash' needs flash-attn, which cannot be used here "
            f"({probe_flash().reason}). Install it: {FLASH_INSTALL}. Or say 'auto'."
        )


def why_not_flash(device: torch.device, dtype: torch.dtype) -> str:
    """Why flash-attn cannot serve a device and dtype; empty if it can."""
    if device.type != "cuda":
        return f"flash-attn runs on CUDA only, the model is on {device.type}"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"flash-attn takes fp16 and bf16, the model is in {dtype}".replace("torch.", "")
    return "" if probe_flash().function else probe_flash().reason


def kernels() -> tuple[Kernel, ...]:
    """All implementations, and whether they are installed."""
    found = probe_flash()
    return (
        Kernel("eager", True, "plain reference, any device"),
        Kernel("sdpa", True, "torch's own, any device"),
        Kernel(
            "flash",
            found.function is not None,
            found.reason or f"{found.package}; CUDA, fp16 or bf16",
            "" if found.function else FLASH_INSTALL,
        ),
    )


@cache
def choose(implementation: Implementation, device: torch.device, dtype: torch.dtype) -> str:
    """The implementation that runs: ``auto`` decided and logged once per device and dtype.

    Raises `PluginError` if a named one cannot run there; nothing falls back silently.
    """
    if implementation == "auto":
        reason = why_not_flash(device, dtype)
        chosen = "sdpa" if reason else "flash"
        if not torch.compiler.is_compiling():
            _log.info("attention: %s (%s)", chosen, reason or f"{probe_flash().package} is there")
        return chosen
    if implementation == "flash" and (reason := why_not_flash(device, dtype)):
        raise PluginError(f"backbone.implementation: 'flash' cannot run here: {reason}.")
    return implementation


KERNELS: dict[str, Attend] = {"eager": eager, "sdpa": sdpa, "flash": flash}


def over_scales(
    attend: Attend,
    q_BLHd: Tensor,
    k_BLHd: Tensor,
    v_BLHd: Tensor,
    layout: Layout,
    scale: float,
) -> Tensor:
    """Attention of all scales at once, (B,L,H,d): each scale's queries see the keys up to its end.

    That is block-causal attention in K unmasked calls: no mask is built and nothing is
    computed in vain.
    """
    parts = [
        attend(q_BLHd[:, part], k_BLHd[:, : part.stop], v_BLHd[:, : part.stop], scale)
        for part in layout.slices
    ]
    return torch.cat(parts, dim=1)


def inside_scales(
    attend: Attend,
    q_BLHd: Tensor,
    k_BLHd: Tensor,
    v_BLHd: Tensor,
    layout: Layout,
    scale: float,
) -> Tensor:
    """Attention of all scales at once, (B,L,H,d): each scale's queries see its own keys alone."""
    parts = [
        attend(q_BLHd[:, part], k_BLHd[:, part], v_BLHd[:, part], scale) for part in layout.slices
    ]
    return torch.cat(parts, dim=1)


def rotate(x_BLHd: Tensor, angle_LR: Tensor) -> Tensor:
    """Channels (i, i + R) of every head turned by the token's i-th angle; the rest unchanged."""
    return turn(x_BLHd, turns(angle_LR, x_BLHd.dtype))


def turns(angle_LR: Tensor, dtype: torch.dtype) -> Turns:
    """What `turn` needs of the angles, for heads in a dtype."""
    return Turns(*(f(angle_LR)[:, None].to(dtype) for f in (torch.cos, torch.sin)))
