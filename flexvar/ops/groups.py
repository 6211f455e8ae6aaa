"""GroupNorm with SiLU behind it, of pictures (B,C,h,w)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flexvar.ops import fusion
from flexvar.ops.fusion import Fusion

# Cells up to which one launch takes moments and applies them, a program per group: of more they are
# two launches, so that a single picture keeps a GPU busy.
WHOLE = 64 * 64


def norm_silu(
    x_BChw: Tensor,
    weight_C: Tensor,
    bias_C: Tensor,
    groups: int,
    eps: float,
    *,
    fused: bool = False,
) -> Tensor:
    """SiLU of the GroupNorm of a tensor; moments in fp32.

    fused: channels last, and without gradients, where kernels are taken. torch's own on CUDA copies
    such a picture to channels first and the result back.
    """
    given = x_BChw, weight_C, bias_C, groups, eps
    if fused and not torch.is_grad_enabled() and _fits(x_BChw, groups):
        return _norm_silu(*given, WHOLE)
    return _plain(*given)[0]


def _fits(x_BChw: Tensor, groups: int) -> bool:
    """Not one value per group, which has no moments; and places of a picture within 32 bits."""
    values = x_BChw.shape[1] * x_BChw.shape[2] * x_BChw.shape[3]
    return groups < values < 2**31 and fusion.takes(NORM_SILU, x_BChw)


def _plain(
    x_BChw: Tensor, weight_C: Tensor, bias_C: Tensor, groups: int, eps: float
) -> tuple[Tensor]:
    y_BChw = torch.group_norm(x_BChw, groups, weight_C, bias_C, eps)
    # In its own memory, which nothing else holds, where no gradient needs it.
    return (F.silu(y_BChw, inplace=not torch.is_grad_enabled()),)


def _fused(*given: Any) -> tuple[Tensor, Tensor]:
    # Both ways of it.
    return tuple(_norm_silu(*given, whole) for whole in (2**30, 0))


def _plain_twice(*given: Any) -> tuple[Tensor, Tensor]:
    (y_BChw,) = _plain(*given)
    return y_BChw, y_BChw


def _fake(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, whole: int) -> Tensor:
    return torch.empty_like(x, memory_format=torch.channels_last)


_norm_silu = fusion.operator(
    "norm_silu(Tensor x, Tensor weight, Tensor bias, int groups, float eps, int whole) -> Tensor",
    _fake,
    "flexvar.ops.kernels.groups",
    launches=lambda x, *given: 1 if x.shape[2] * x.shape[3] <= given[-1] else 2,
)


def _cases(source: torch.Generator) -> Iterator[tuple[Any, ...]]:
    yield _case(source, 1, 8, 1, 2, 4)
    yield _case(source, 2, 24, 5, 7, 3)
    yield _case(source, 1, 32, 40, 27, 32)


def _case(
    source: torch.Generator, batch: int, channels: int, height: int, width: int, groups: int
) -> tuple[Any, ...]:
    """Far from 0, as activations may be."""
    x = torch.randn(batch, channels, height, width, generator=source) * 3 + 20
    weight, bias = torch.randn(2, channels, generator=source)
    return x.contiguous(memory_format=torch.channels_last), weight, bias, groups, 1e-6


NORM_SILU = Fusion(
    "norm_silu",
    "GroupNorm and SiLU, channels last",
    _plain_twice,
    _fused,
    _cases,
    lambda source: _case(source, 1, 128, 256, 256, 32),
    slack=4.0,
)
