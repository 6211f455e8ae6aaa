"""Gate, residual, layer norm and modulation of a row of channels in one program."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from flexvar.ops.kernels.launch import on, warps

EPS = 1e-6
# Rows that one program of the backward pass adds up, so that few sums are left for the next step.
ROWS = 16


@triton.jit
def forward_kernel(
    x_ptr, gate_ptr, branch_ptr, scale_ptr, shift_ptr,
    stream_ptr, normed_ptr, mean_ptr, rate_ptr,
    length, width, x_batch, x_row, branch_batch, branch_row,
    gate_batch, scale_batch, shift_batch, eps,
    RESIDUAL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program per token: x + gate * branch, and that normed, times scale, plus shift."""
    row = tl.program_id(0).to(tl.int64)
    batch, token = row // length, row % length
    channel = tl.arange(0, BLOCK)
    inside = channel < width
    x = tl.load(x_ptr + batch * x_batch + token * x_row + channel, inside, 0.0).to(tl.float32)
    if RESIDUAL:
        gate = tl.load(gate_ptr + batch * gate_batch + channel, inside, 0.0).to(tl.float32)
        place = batch * branch_batch + token * branch_row + channel
        x += gate * tl.load(branch_ptr + place, inside, 0.0).to(tl.float32)
        # What is normed is what the stream holds.
        rounded = x.to(stream_ptr.dtype.element_ty)
        tl.store(stream_ptr + row * width + channel, rounded, inside)
        x = rounded.to(tl.float32)
    mean = tl.sum(x, 0) / width
    apart = tl.where(inside, x - mean, 0.0)
    rate = 1 / tl.sqrt(tl.sum(apart * apart, 0) / width + eps)
    scale = tl.load(scale_ptr + batch * scale_batch + channel, inside, 0.0).to(tl.float32)
    shift = tl.load(shift_ptr + batch * shift_batch + channel, inside, 0.0).to(tl.float32)
    normed = (apart * rate * scale + shift).to(normed_ptr.dtype.element_ty)
    tl.store(normed_ptr + row * width + channel, normed, inside)
    tl.store(mean_ptr + row, mean)
    tl.store(rate_ptr + row, rate)


@triton.jit
def backward_kernel(
    stream_ptr, gate_ptr, branch_ptr, scale_ptr, mean_ptr, rate_ptr,
    d_stream_ptr, d_normed_ptr, d_x_ptr, d_branch_ptr, sums_ptr,
    length, width, stream_batch, stream_row, branch_batch, branch_row, gate_batch, scale_batch,
    RESIDUAL: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program per ROWS tokens of one image: gradients of them, and sums over them.

    sums (programs, 3, B, D): of scale, shift and gate.
    """
    part, batch = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    batches = tl.num_programs(1)
    channel = tl.arange(0, BLOCK)
    inside = channel < width
    scale = tl.load(scale_ptr + batch * scale_batch + channel, inside, 0.0).to(tl.float32)
    if RESIDUAL:
        gate = tl.load(gate_ptr + batch * gate_batch + channel, inside, 0.0).to(tl.float32)
    d_scale = tl.zeros([BLOCK], tl.float32)
    d_shift = tl.zeros([BLOCK], tl.float32)
    d_gate = tl.zeros([BLOCK], tl.float32)
    for number in range(ROWS):
        token = part * ROWS + number
        row = batch * length + token
        here = inside & (channel * 0 + token < length)
        place = batch * stream_batch + token * stream_row + channel
        stream = tl.load(stream_ptr + place, here, 0.0).to(tl.float32)
        known = batch * length + tl.minimum(token, length - 1)
        mean, rate = tl.load(mean_ptr + known), tl.load(rate_ptr + known)
        d_normed = tl.load(d_normed_ptr + row * width + channel, here, 0.0).to(tl.float32)
        hat = tl.where(here, (stream - mean) * rate, 0.0)
        d_scale += d_normed * hat
        d_shift += d_normed
        d_hat = d_normed * scale
        along = tl.sum(d_hat * hat, 0) / width
        d_x = rate * (d_hat - tl.sum(d_hat, 0) / width - hat * along)
        if RESIDUAL:
            d_x += tl.load(d_stream_ptr + row * width + channel, here, 0.0).to(tl.float32)
            place = batch * branch_batch + token * branch_row + channel
            branch = tl.load(branch_ptr + place, here, 0.0).to(tl.float32)
            d_gate += tl.where(here, d_x * branch, 0.0)
            d_branch = (d_x * gate).to(d_branch_ptr.dtype.element_ty)
            tl.store(d_branch_ptr + row * width + channel, d_branch, here)
        tl.store(d_x_ptr + row * width + channel, d_x.to(d_x_ptr.dtype.element_ty), here)
    place = ((part * 3) * batches + batch) * width + channel
    tl.store(sums_ptr + place, d_scale, inside)
    tl.store(sums_ptr + place + batches * width, d_shift, inside)
    if RESIDUAL:
        tl.store(sums_ptr + place + 2 * batches * width, d_gate, inside)


def modulated_norm(
    x_BLD: Tensor, scale_B1D: Tensor, shift_B1D: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """See `flexvar.ops.norms`."""
    _, *rest = _forward(x_BLD, None, None, scale_B1D, shift_B1D, dtype)
    return tuple(rest)


def residual_norm(
    x_BLD: Tensor, gate_B1D: Tensor, branch_BLD: Tensor, scale_B1D: Tensor, shift_B1D: Tensor,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """See `flexvar.ops.norms`."""
    return _forward(x_BLD, gate_B1D, branch_BLD, scale_B1D, shift_B1D, dtype)


def _forward(x, gate, branch, scale, shift, dtype):
    batch, length, width = x.shape
    x, scale, shift = map(_rows_whole, (x, scale, shift))
    residual = gate is not None
    normed = torch.empty(batch, length, width, device=x.device, dtype=dtype)
    mean = torch.empty(batch, length, device=x.device, dtype=torch.float32)
    rate = torch.empty_like(mean)
    stream = x
    if residual:
        gate, branch = _rows_whole(gate), _rows_whole(branch)
        kind = torch.promote_types(torch.promote_types(x.dtype, gate.dtype), branch.dtype)
        stream = torch.empty(batch, length, width, device=x.device, dtype=kind)
    else:
        gate, branch = scale, x
    block = triton.next_power_of_2(width)
    with on(x):
        forward_kernel[(batch * length,)](
            x, gate, branch, scale, shift, stream, normed, mean, rate,
            length, width, x.stride(0), x.stride(1), branch.stride(0), branch.stride(1),
            _step(gate), _step(scale), _step(shift), EPS,
            RESIDUAL=residual, BLOCK=block, num_warps=warps(block),
        )  # fmt: skip
    return stream, normed, mean, rate


def norm_backward(
    stream, gate, branch, scale, mean, rate, d_stream, d_normed
) -> tuple[Tensor, Tensor, Tensor]:
    """See `flexvar.ops.norms`."""
    batch, length, width = stream.shape
    stream, scale, d_normed = _rows_whole(stream), _rows_whole(scale), d_normed.contiguous()
    residual = gate is not None
    d_x = torch.empty(batch, length, width, device=stream.device, dtype=stream.dtype)
    if residual:
        gate, branch, d_stream = _rows_whole(gate), _rows_whole(branch), d_stream.contiguous()
        d_branch = torch.empty(batch, length, width, device=stream.device, dtype=branch.dtype)
    else:
        gate, branch, d_stream, d_branch = scale, stream, d_normed, d_x
    parts = triton.cdiv(length, ROWS)
    sums = torch.empty(parts, 3, batch, width, device=stream.device, dtype=torch.float32)
    block = triton.next_power_of_2(width)
    with on(stream):
        backward_kernel[(parts, batch)](
            stream, gate, branch, scale, mean, rate, d_stream, d_normed, d_x, d_branch, sums,
            length, width, stream.stride(0), stream.stride(1), branch.stride(0), branch.stride(1),
            _step(gate), _step(scale),
            RESIDUAL=residual, ROWS=ROWS, BLOCK=block, num_warps=warps(block),
        )  # fmt: skip
    sums_3BD = sums.sum(0) if parts > 1 else sums[0]
    return d_x, d_branch if residual else d_x.new_empty(0), sums_3BD


def _rows_whole(x):
    """The same with channels side by side."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _step(x_B1D):
    """Numbers from one image's values to the next's; 0 where all share them."""
    return 0 if x_B1D.shape[0] == 1 else x_B1D.stride(0)
