"""Mamba-2's mixer over one chunk of tokens in three kernels: convolution, scan, gated norm.

Shapes and symbols are those of `flexvar_plugins.backbones.ssd`. Only the products at both ends of a
mixer are left to others. For generation: without gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flexvar.ops import fusion
from flexvar.ops.fusion import Fusion
from flexvar_plugins.backbones import ssd

# Tokens of the longest chunk: every scale up to 256 px is one.
MOST = 256
NORM_EPS = 1e-5
KERNELS = "flexvar_plugins.backbones.scan_triton"


def takes(x_BLD: Tensor) -> bool:
    """Whether all three kernels are taken."""
    return x_BLD.shape[1] <= MOST and all(
        fusion.takes(one, x_BLD) for one in (CONVOLVE, SCAN, GATED)
    )


def convolve(
    x_BLE: Tensor, weight_EW: Tensor, bias_E: Tensor, tail_BTE: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As `ssd.convolve`."""
    return _convolve(x_BLE, weight_EW, bias_E, tail_BTE)


def scan(
    mixed_BLE: Tensor,
    dt_BLH: Tensor,
    dt_bias_H: Tensor,
    rate_H: Tensor,
    skip_H: Tensor,
    state_BHdN: Tensor | None,
    dim: int,
    states: int,
) -> tuple[Tensor, Tensor]:
    """y (B,L,H,d) and the state after; as `ssd.chunked` in one chunk.

    mixed_BLE: x, write and read side by side, as the convolution leaves them. dt_BLH: before its
    bias and softplus.
    """
    given = mixed_BLE, dt_BLH, dt_bias_H, rate_H, skip_H, state_BHdN
    return _scan(*given, dim, states)


def gated(y_BLHd: Tensor, gate_BLE: Tensor, weight_E: Tensor) -> Tensor:
    """What the scan read, gated and normed in fp32: (B,L,E) in the dtype of the gate."""
    return _gated(y_BLHd, gate_BLE, weight_E, NORM_EPS)


def plain_gated(y_BLHd: Tensor, gate_BLE: Tensor, weight_E: Tensor) -> Tensor:
    """The definition of `gated`, in torch's own steps."""
    y_BLE = y_BLHd.flatten(2).float() * F.silu(gate_BLE.float())
    return F.rms_norm(y_BLE, y_BLE.shape[-1:], weight_E, NORM_EPS).to(gate_BLE.dtype)


def inputs(
    mixed_BLE: Tensor,
    dt_BLH: Tensor,
    dt_bias_H: Tensor,
    rate_H: Tensor,
    skip_H: Tensor,
    state_BHdN: Tensor | None,
    dim: int,
    states: int,
) -> ssd.Inputs:
    """The same arguments for the implementations of `ssd`."""
    inner_BLE, write_BLN, read_BLN = mixed_BLE.split(
        [mixed_BLE.shape[-1] - 2 * states, states, states], dim=-1
    )
    return ssd.Inputs(
        x_BLHd=inner_BLE.unflatten(-1, (-1, dim)),
        dt_BLH=F.softplus(dt_BLH.float() + dt_bias_H),
        rate_H=rate_H,
        write_BLN=write_BLN,
        read_BLN=read_BLN,
        skip_H=skip_H,
        state_BHdN=state_BHdN,
    )


def _plain_scan(mixed: Tensor, dt: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
    # What the weights say is fp32, and so is the state, whatever the tokens are in.
    return ssd.chunked(inputs(mixed, dt, *_exact(given)))


def _fused_scan(mixed: Tensor, dt: Tensor, *given: Any) -> tuple[Tensor, Tensor]:
    return _scan(mixed, dt, *_exact(given))


def _exact(given: tuple[Any, ...]) -> Any:
    return (one.float() if isinstance(one, Tensor) else one for one in given)


def _fake_convolve(
    x: Tensor, weight: Tensor, bias: Tensor, tail: Tensor | None
) -> tuple[Tensor, Tensor]:
    batch, _, channels = x.shape
    return x.new_empty(x.shape), x.new_empty(batch, weight.shape[1] - 1, channels)


def _fake_scan(
    mixed: Tensor,
    dt: Tensor,
    dt_bias: Tensor,
    rate: Tensor,
    skip: Tensor,
    state: Tensor | None,
    dim: int,
    states: int,
) -> tuple[Tensor, Tensor]:
    batch, length, heads = dt.shape
    after = mixed.new_empty(batch, heads, dim, states, dtype=torch.float32)
    return mixed.new_empty(batch, length, heads, dim), after


def _fake_gated(y: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    return gate.new_empty(gate.shape)


_convolve = fusion.operator(
    "scan_convolve(Tensor x, Tensor weight, Tensor bias, Tensor? tail) -> (Tensor, Tensor)",
    _fake_convolve,
    KERNELS,
)
_scan = fusion.operator(
    "scan_chunk(Tensor mixed, Tensor dt, Tensor dt_bias, Tensor rate, Tensor skip, Tensor? state, "
    "int dim, int states) -> (Tensor, Tensor)",
    _fake_scan,
    KERNELS,
)
_gated = fusion.operator(
    "gated_norm(Tensor y, Tensor gate, Tensor weight, float eps) -> Tensor", _fake_gated, KERNELS
)


def _convolve_cases(source: torch.Generator) -> Iterator[tuple[Any, ...]]:
    yield _convolve_case(source, 1, 1, 8, 4, tail=True)
    yield _convolve_case(source, 2, 2, 24, 4, tail=False)
    yield _convolve_case(source, 2, 19, 140, 3, tail=True)


def _convolve_case(
    source: torch.Generator, batch: int, length: int, channels: int, width: int, *, tail: bool
) -> tuple[Any, ...]:
    """A slice of a wider projection."""
    x = torch.randn(batch, length, channels + 5, generator=source)[..., 3 : channels + 3]
    before = torch.randn(batch, width - 1, channels, generator=source) if tail else None
    weight = torch.randn(channels, width, generator=source)
    return x, weight, torch.randn(channels, generator=source), before


def _scan_cases(source: torch.Generator) -> Iterator[tuple[Any, ...]]:
    yield _scan_case(source, 1, 1, 2, 8, 8, state=True)
    yield _scan_case(source, 2, 20, 3, 16, 24, state=False)
    yield _scan_case(source, 1, 150, 2, 16, 16, state=True)


def _scan_case(
    source: torch.Generator,
    batch: int,
    length: int,
    heads: int,
    dim: int,
    states: int,
    *,
    state: bool,
) -> tuple[Any, ...]:
    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=source)

    mixed = normal(batch, length, heads * dim + 2 * states)
    # Such decays as Mamba starts with, by which a state lasts for some of the tokens.
    dt = normal(batch, length, heads + 3)[..., :heads] - 3
    rate = -1 - 15 * torch.rand(heads, generator=source)
    before = normal(batch, heads, dim, states) if state else None
    return mixed, dt, normal(heads), rate, normal(heads), before, dim, states


def _gated_cases(source: torch.Generator) -> Iterator[tuple[Any, ...]]:
    yield _gated_case(source, 1, 1, 2, 8)
    yield _gated_case(source, 2, 5, 3, 20)


def _gated_case(
    source: torch.Generator, batch: int, length: int, heads: int, dim: int
) -> tuple[Any, ...]:
    y = torch.randn(batch, length, heads, dim, generator=source)
    gate = torch.randn(batch, length, heads * dim + 4, generator=source)[..., : heads * dim]
    return y, gate, torch.randn(heads * dim, generator=source)


CONVOLVE = Fusion(
    "scan_convolve",
    "Mamba's convolution, SiLU, and the inputs it hands on",
    ssd.convolve,
    convolve,
    _convolve_cases,
    lambda source: _convolve_case(source, 2, 256, 2304, 4, tail=True),
)
SCAN = Fusion(
    "scan_chunk",
    "Mamba's scan over one chunk, from state to state",
    _plain_scan,
    _fused_scan,
    _scan_cases,
    lambda source: _scan_case(source, 2, 256, 32, 64, 128, state=True),
    slack=4.0,
)
GATED = Fusion(
    "gated_norm",
    "Mamba's gate and norm behind the scan",
    lambda *given: (plain_gated(*given),),
    lambda *given: (gated(*given),),
    _gated_cases,
    lambda source: _gated_case(source, 2, 256, 32, 64),
)
