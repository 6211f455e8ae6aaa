"""Queries, keys and values ready for attention: of unit length, rotated, in their cache.

Shapes: qkv (B,L,3*H*d), H heads of d channels; q, k, v (B,L,H,d); scale (H,1), fp32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flexvar.ops import fusion
from flexvar.ops.fusion import Fusion


class Turns(NamedTuple):
    """Cosine and sine (L,1,R) of angles."""

    cosine: Tensor
    sine: Tensor

    def of(self, part: slice) -> Turns:
        """Those of some of the tokens."""
        return Turns(self.cosine[part], self.sine[part])


class Cache(NamedTuple):
    """Where the keys and values (B,L,H,d) of tokens have their place: views of what is held."""

    keys_BLHd: Tensor
    values_BLHd: Tensor


def project(
    qkv_BLE: Tensor, heads: int, scale_H1: Tensor | None, by: Turns | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values: q and k of unit length if there is a scale of q, and turned."""
    q, k, v = qkv_BLE.unflatten(-1, (3, heads, -1)).unbind(2)
    if scale_H1 is not None:
        q, k = unit_length(q, scale_H1), unit_length(k)
    if by is not None:
        q, k = turn(q, by), turn(k, by)
    return q, k, v


def store(
    qkv_BLE: Tensor, scale_H1: Tensor | None, by: Turns | None, cache: Cache, *, fused: bool = False
) -> Tensor:
    """The queries of `project`; keys and values go into the cache. Without gradients.

    fused: in one launch where kernels are taken, rounded once at its end.
    """
    given = qkv_BLE, scale_H1, *(by or (None, None)), *cache
    if fused and whole(cache) and fusion.takes(HEADS, qkv_BLE):
        return _store(*given)
    return _plain(*given)[0]


def whole(cache: Cache) -> bool:
    """Whether the heads of a token lie side by side in it, where a kernel writes them."""
    _, _, heads, dim = cache.keys_BLHd.shape
    return all(one.stride()[1:] == (heads * dim, dim, 1) for one in cache)


def unit_length(x_BLHd: Tensor, scale_H1: Tensor | float = 1.0) -> Tensor:
    """Vectors of length 1 times a scale per head; lengths in fp32, without a copy in fp32."""
    length = torch.linalg.vector_norm(x_BLHd, dim=-1, keepdim=True, dtype=torch.float32)
    return (x_BLHd * (scale_H1 / length.clamp_min(1e-12))).to(x_BLHd.dtype)


def turn(x_BLHd: Tensor, by: Turns) -> Tensor:
    """Channels (i, i + R) of every head turned by the token's i-th angle; the rest unchanged."""
    count = by.cosine.shape[-1]
    cosine, sine = (one.to(x_BLHd.dtype) for one in by)
    first, second = x_BLHd[..., :count], x_BLHd[..., count : 2 * count]
    turned = [first * cosine - second * sine, first * sine + second * cosine]
    return torch.cat([*turned, x_BLHd[..., 2 * count :]], dim=-1)


def _plain(
    qkv_BLE: Tensor,
    scale_H1: Tensor | None,
    cosine: Tensor | None,
    sine: Tensor | None,
    keys_BLHd: Tensor,
    values_BLHd: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    by = None if cosine is None or sine is None else Turns(cosine, sine)
    q_BLHd, k_BLHd, v_BLHd = project(qkv_BLE, keys_BLHd.shape[2], scale_H1, by)
    keys_BLHd.copy_(k_BLHd)
    values_BLHd.copy_(v_BLHd)
    return q_BLHd, keys_BLHd, values_BLHd


def _fused(qkv_BLE: Tensor, *given: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _store(qkv_BLE, *given), given[-2], given[-1]


def _fake(
    qkv_BLE: Tensor,
    scale_H1: Tensor | None,
    cosine: Tensor | None,
    sine: Tensor | None,
    keys_BLHd: Tensor,
    values_BLHd: Tensor,
) -> Tensor:
    return qkv_BLE.new_empty(keys_BLHd.shape)


_store = fusion.operator(
    "store_heads(Tensor qkv, Tensor? scale, Tensor? cosine, Tensor? sine, Tensor(a!) keys, "
    "Tensor(b!) values) -> Tensor",
    _fake,
    "flexvar.ops.kernels.heads",
)


def _cases(source: torch.Generator) -> Iterator[tuple[Any, ...]]:
    yield _case(source, 1, 1, 1, 8, 0)
    yield _case(source, 2, 5, 3, 20, 6)
    yield _case(source, 2, 4, 2, 16, 4, normed=False)


def _case(
    source: torch.Generator,
    batch: int,
    length: int,
    heads: int,
    dim: int,
    turns: int,
    *,
    normed: bool = True,
) -> tuple[Any, ...]:
    """In the middle of a cache."""
    qkv = torch.randn(batch, length, 3 * heads * dim, generator=source)
    scale = torch.rand(heads, 1, generator=source) * 9 if normed else None
    angles = torch.randn(length, 1, turns, generator=source)
    by = (angles.cos(), angles.sin()) if turns else (None, None)
    cache = [torch.zeros(batch, length + 3, heads, dim)[:, 2 : length + 2] for _ in range(2)]
    return qkv, scale, *by, *cache


HEADS = Fusion(
    "store_heads",
    "queries and keys of unit length, scaled, rotated, keys and values into their cache",
    _plain,
    _fused,
    _cases,
    lambda source: _case(source, 2, 256, 16, 64, 0),
)
