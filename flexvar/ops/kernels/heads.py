"""Queries, keys and values of a token, made ready and put into their cache in one program."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from flexvar.ops.heads import Cache, whole
from flexvar.ops.kernels.launch import on


@triton.jit
def load_head(ptr, start, head, channel, inside, cos, sin, turned, NORMED: tl.constexpr,
              ROTATED: tl.constexpr, factor, dim):  # fmt: skip
    """One of the three parts of a token, (H,d): of unit length times a factor, and turned."""
    place = start + head[:, None] * dim + channel[None, :]
    x = tl.load(ptr + place, inside, 0.0).to(tl.float32)
    if NORMED:
        length = tl.maximum(tl.sqrt(tl.sum(x * x, 1)), 1e-12)
        factor = factor / length
        x = x * factor[:, None]
    if ROTATED:
        other = tl.load(ptr + start + head[:, None] * dim + turned[None, :], inside, 0.0)
        other = other.to(tl.float32)
        if NORMED:
            other = other * factor[:, None]
        x = x * cos[None, :] + other * sin[None, :]
    return x


@triton.jit
def store_kernel(
    qkv_ptr, scale_ptr, cos_ptr, sin_ptr, q_ptr, k_ptr, v_ptr,
    length, heads, dim, turns, qkv_batch, qkv_row, turn_row, k_batch, v_batch, cache_row,
    NORMED: tl.constexpr, ROTATED: tl.constexpr, HEADS: tl.constexpr, DIM: tl.constexpr,
):  # fmt: skip
    """A program per token."""
    row = tl.program_id(0).to(tl.int64)
    batch, token = row // length, row % length
    head, channel = tl.arange(0, HEADS), tl.arange(0, DIM)
    inside = (head < heads)[:, None] & (channel < dim)[None, :]
    start = batch * qkv_batch + token * qkv_row
    width = heads * dim
    cos, sin, turned, scale, one = 1.0, 0.0, channel, 1.0, 1.0
    if NORMED:
        scale = tl.load(scale_ptr + head, head < heads, 1.0)
        one = tl.full([HEADS], 1.0, tl.float32)
    if ROTATED:
        # Channels i and i + turns are one plane; beyond 2 turns nothing is turned.
        first, whole = channel < turns, channel < 2 * turns
        angle = token * turn_row + tl.where(first, channel, channel - turns)
        cos = tl.load(cos_ptr + angle, whole, 1.0).to(tl.float32)
        sin = tl.load(sin_ptr + angle, whole, 0.0).to(tl.float32)
        sin = tl.where(first, -sin, sin)
        turned = tl.where(whole, tl.where(first, channel + turns, channel - turns), channel)
    into = head[:, None] * dim + channel[None, :]
    q = load_head(qkv_ptr, start, head, channel, inside, cos, sin, turned, NORMED, ROTATED,
                  scale, dim)  # fmt: skip
    tl.store(q_ptr + row * width + into, q.to(q_ptr.dtype.element_ty), inside)
    k = load_head(qkv_ptr, start + width, head, channel, inside, cos, sin, turned, NORMED, ROTATED,
                  one, dim)  # fmt: skip
    tl.store(k_ptr + batch * k_batch + token * cache_row + into, k.to(k_ptr.dtype.element_ty),
             inside)  # fmt: skip
    v = tl.load(qkv_ptr + start + 2 * width + into, inside, 0.0)
    tl.store(v_ptr + batch * v_batch + token * cache_row + into, v.to(v_ptr.dtype.element_ty),
             inside)  # fmt: skip


def store_heads(
    qkv_BLE: Tensor, scale_H1: Tensor | None, cosine: Tensor | None, sine: Tensor | None,
    keys_BLHd: Tensor, values_BLHd: Tensor,
) -> Tensor:  # fmt: skip
    """See `flexvar.ops.heads`."""
    batch, length, heads, dim = keys_BLHd.shape
    assert whole(Cache(keys_BLHd, values_BLHd)), "other caches are torch's"
    if qkv_BLE.stride(-1) != 1:
        qkv_BLE = qkv_BLE.contiguous()
    q_BLHd = torch.empty(batch, length, heads, dim, device=qkv_BLE.device, dtype=qkv_BLE.dtype)
    normed, rotated = scale_H1 is not None, cosine is not None
    turns = turn_row = 0
    if cosine is not None and sine is not None:
        if cosine.stride() != sine.stride() or cosine.stride(-1) != 1:
            cosine, sine = cosine.contiguous(), sine.contiguous()
        turns, turn_row = cosine.shape[-1], cosine.stride(0)
    tall, wide = triton.next_power_of_2(heads), triton.next_power_of_2(dim)
    with on(qkv_BLE):
        store_kernel[(batch * length,)](
            qkv_BLE, qkv_BLE if scale_H1 is None else scale_H1.contiguous(),
            cosine if rotated else qkv_BLE,
            sine if rotated else qkv_BLE, q_BLHd, keys_BLHd, values_BLHd,
            length, heads, dim, turns, qkv_BLE.stride(0), qkv_BLE.stride(1), turn_row,
            keys_BLHd.stride(0), values_BLHd.stride(0), heads * dim,
            NORMED=normed, ROTATED=rotated, HEADS=tall, DIM=wide,
            num_warps=max(1, min(8, tall * wide // 256)),
        )  # fmt: skip
    return q_BLHd
