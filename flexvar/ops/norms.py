"""Layer norm under a modulation, with the gated residual before it if there is one.

Shapes: x and branch (B,L,D); gate, scale and shift (B,1,D) or (1,1,D), 1 added to scales.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from flexvar.ops import fusion
from flexvar.ops.fusion import Fusion
from flexvar.ops.precision import computing_dtype

EPS = 1e-6
KERNELS = "flexvar.ops.kernels.norms"


def modulated_norm(
    x_BLD: Tensor,
    scale_B1D: Tensor,
    shift_B1D: Tensor,
    *,
    fused: bool = False,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """norm(x) * scale + shift; the norm without weights, statistics in fp32.

    fused: in one launch where kernels are taken; under autocast then in its dtype at once, which
    the product behind casts to. dtype: of what is normed and made, if it is not that of x.
    """
    if fused and fusion.takes(NORM, x_BLD):
        return _fused_norm(x_BLD, scale_B1D, shift_B1D, dtype)[0]
    return _plain_norm(x_BLD if dtype is None else x_BLD.to(dtype), scale_B1D, shift_B1D)[0]


def residual_norm(
    x_BLD: Tensor,
    gate_B1D: Tensor,
    branch_BLD: Tensor,
    scale_B1D: Tensor,
    shift_B1D: Tensor,
    *,
    fused: bool = False,
) -> tuple[Tensor, Tensor]:
    """x + gate * branch, and the `modulated_norm` of that; fused as there."""
    given = x_BLD, gate_B1D, branch_BLD, scale_B1D, shift_B1D
    if fused and fusion.takes(RESIDUAL_NORM, x_BLD):
        return _fused_residual(*given)
    return _plain_residual(*given)


def _plain_norm(x_BLD: Tensor, scale_B1D: Tensor, shift_B1D: Tensor) -> tuple[Tensor]:
    normed = F.layer_norm(x_BLD, x_BLD.shape[-1:], eps=EPS)
    return (torch.addcmul(shift_B1D, normed, scale_B1D),)


def _plain_residual(
    x_BLD: Tensor, gate_B1D: Tensor, branch_BLD: Tensor, scale_B1D: Tensor, shift_B1D: Tensor
) -> tuple[Tensor, Tensor]:
    x_BLD = torch.addcmul(x_BLD, gate_B1D, branch_BLD)
    return x_BLD, _plain_norm(x_BLD, scale_B1D, shift_B1D)[0]


def _fused_norm(
    x_BLD: Tensor, scale_B1D: Tensor, shift_B1D: Tensor, dtype: torch.dtype | None = None
) -> tuple[Tensor]:
    given = x_BLD, scale_B1D, shift_B1D
    dtype = _normed_dtype(*given) if dtype is None else dtype
    if torch.is_grad_enabled():
        return (_Norm.apply(*given, dtype),)  # type: ignore[no-untyped-call]
    return (_norm(*given, dtype)[0],)


def _fused_residual(
    x_BLD: Tensor, gate_B1D: Tensor, branch_BLD: Tensor, scale_B1D: Tensor, shift_B1D: Tensor
) -> tuple[Tensor, Tensor]:
    given = x_BLD, gate_B1D, branch_BLD, scale_B1D, shift_B1D
    dtype = _normed_dtype(*given)
    if torch.is_grad_enabled():
        return _ResidualNorm.apply(*given, dtype)  # type: ignore[no-untyped-call]
    stream, normed, *_ = _residual_norm(*given, dtype)
    return stream, normed


def _normed_dtype(*given: Tensor) -> torch.dtype:
    """Under autocast its dtype, else the widest."""
    dtype = given[0].dtype
    for one in given[1:]:
        dtype = torch.promote_types(dtype, one.dtype)
    computing = computing_dtype(given[0])
    return dtype if computing == given[0].dtype else computing


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, dtype: torch.dtype) -> Tensor:
        normed, mean, rate = _norm(x, scale, shift, dtype)
        ctx.save_for_backward(x, scale, shift, mean, rate)
        return normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_normed: Tensor) -> Any:
        x, scale, shift, mean, rate = ctx.saved_tensors
        d_x, _, sums = _backward(x, None, None, scale, mean, rate, None, d_normed)
        return d_x, _of(sums[0], scale), _of(sums[1], shift), None


class _ResidualNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        gate: Tensor,
        branch: Tensor,
        scale: Tensor,
        shift: Tensor,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        stream, normed, mean, rate = _residual_norm(x, gate, branch, scale, shift, dtype)
        ctx.save_for_backward(stream, gate, branch, scale, shift, mean, rate)
        ctx.dtype = x.dtype
        return stream, normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_stream: Tensor, d_normed: Tensor) -> Any:
        stream, gate, branch, scale, shift, mean, rate = ctx.saved_tensors
        d_x, d_branch, sums = _backward(stream, gate, branch, scale, mean, rate, d_stream, d_normed)
        others = _of(sums[2], gate), d_branch, _of(sums[0], scale), _of(sums[1], shift)
        return d_x.to(ctx.dtype), *others, None


def _of(sum_BD: Tensor, like_B1D: Tensor) -> Tensor:
    """The gradient of values whose sum over tokens it is, of those that all images share too."""
    if like_B1D.shape[0] == 1:
        sum_BD = sum_BD.sum(0, keepdim=True)
    return sum_BD[:, None].to(like_B1D.dtype)


def _fake_norm(x: Tensor, scale: Tensor, shift: Tensor, dtype: torch.dtype) -> Any:
    return torch.empty_like(x, dtype=dtype), *_fake_moments(x)


def _fake_residual(
    x: Tensor, gate: Tensor, branch: Tensor, scale: Tensor, shift: Tensor, dtype: torch.dtype
) -> Any:
    kind = torch.promote_types(torch.promote_types(x.dtype, gate.dtype), branch.dtype)
    whole = x.new_empty(x.shape, dtype=kind)
    return whole, whole.new_empty(x.shape, dtype=dtype), *_fake_moments(x)


def _fake_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    return tuple(x.new_empty(x.shape[:2], dtype=torch.float32) for _ in range(2))  # type: ignore[return-value]


def _fake_backward(
    stream: Tensor,
    gate: Tensor | None,
    branch: Tensor | None,
    scale: Tensor,
    mean: Tensor,
    rate: Tensor,
    d_stream: Tensor | None,
    d_normed: Tensor,
) -> Any:
    batch, _, width = stream.shape
    d_branch = stream.new_empty(0) if branch is None else branch.new_empty(branch.shape)
    sums = stream.new_empty(3, batch, width, dtype=torch.float32)
    return stream.new_empty(stream.shape), d_branch, sums


_norm = fusion.operator(
    "modulated_norm(Tensor x, Tensor scale, Tensor shift, ScalarType dtype) "
    "-> (Tensor, Tensor, Tensor)",
    _fake_norm,
    KERNELS,
)
_residual_norm = fusion.operator(
    "residual_norm(Tensor x, Tensor gate, Tensor branch, Tensor scale, Tensor shift, "
    "ScalarType dtype) -> (Tensor, Tensor, Tensor, Tensor)",
    _fake_residual,
    KERNELS,
)
_backward = fusion.operator(
    "norm_backward(Tensor stream, Tensor? gate, Tensor? branch, Tensor scale, Tensor mean, "
    "Tensor rate, Tensor? d_stream, Tensor d_normed) -> (Tensor, Tensor, Tensor)",
    _fake_backward,
    KERNELS,
    launches=2,
)


def _norm_cases(source: torch.Generator) -> Iterator[tuple[Any, ...]]:
    for shape in ((1, 1, 8), (2, 5, 96), (3, 33, 100)):
        yield _norm_case(source, *shape)


def _norm_case(
    source: torch.Generator, batch: int, length: int, width: int
) -> tuple[Tensor, Tensor, Tensor]:
    # Slices of one projection, as AdaLN makes them.
    values = torch.randn(batch, 1, 3, width, generator=source)
    x = torch.randn(batch, length, width, generator=source)
    return x * 2 + 1, values[:, :, 1], values[:, :, 2]


def _residual_cases(source: torch.Generator) -> Iterator[tuple[Any, ...]]:
    for case in _norm_cases(source):
        yield _with_residual(source, *case)


def _with_residual(
    source: torch.Generator, x: Tensor, scale: Tensor, shift: Tensor
) -> tuple[Tensor, ...]:
    gate, branch = (torch.randn(one.shape, generator=source) for one in (scale, x))
    return x, gate, branch, scale, shift


NORM = Fusion(
    "modulated_norm",
    "layer norm, scale and shift",
    _plain_norm,
    _fused_norm,
    _norm_cases,
    lambda source: _norm_case(source, 2, 256, 1024),
    gradients=True,
)
RESIDUAL_NORM = Fusion(
    "residual_norm",
    "gate, residual, layer norm, scale and shift",
    _plain_residual,
    _fused_residual,
    _residual_cases,
    lambda source: _with_residual(source, *_norm_case(source, 2, 256, 1024)),
    gradients=True,
)
