"""GroupNorm and SiLU of pictures whose channels lie side by side."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from flexvar.ops.kernels.launch import on

# Cells of one step; where moments are a launch of their own, the fewest of one program, the most
# programs of a picture, and steps of one program that applies them.
STEP, PART, PARTS, STEPS = 256, 2048, 32, 4


@triton.jit
def moments_of(x_ptr, start, cells, first, last, channels, offset, of_group,
               STEP: tl.constexpr, WIDE: tl.constexpr):  # fmt: skip
    """Sums of x - offset and of its squares, over some cells of a group, per channel."""
    channel = tl.arange(0, WIDE)
    sums, squares = tl.zeros([WIDE], tl.float32), tl.zeros([WIDE], tl.float32)
    for begin in range(first, last, STEP):
        cell = begin + tl.arange(0, STEP)
        inside = (cell < tl.minimum(cells, last))[:, None] & (channel < of_group)[None, :]
        place = cell[:, None] * channels + channel[None, :]
        x = tl.load((x_ptr + start) + place, inside, 0.0).to(tl.float32)
        apart = tl.where(inside, x - offset, 0.0)
        sums += tl.sum(apart, 0)
        squares += tl.sum(apart * apart, 0)
    return sums, squares


@triton.jit
def put(x_ptr, y_ptr, start, cell, cells, channels, channel, mine, scale, shift):
    """Some cells' values: x * scale + shift, and SiLU of it."""
    inside = (cell < cells)[:, None] & mine[None, :]
    place = cell[:, None] * channels + channel[None, :]
    x = tl.load((x_ptr + start) + place, inside, 0.0).to(tl.float32)
    y = x * scale[None, :] + shift[None, :]
    y = y / (1 + tl.exp(-y))
    tl.store((y_ptr + start) + place, y.to(y_ptr.dtype.element_ty), inside)


@triton.jit
def whole_kernel(
    x_ptr, weight_ptr, bias_ptr, y_ptr, cells, channels, groups, eps,
    STEP: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """A program per picture and group: its moments, then its values, read again."""
    batch, group = tl.program_id(0).to(tl.int64) // groups, tl.program_id(0) % groups
    of_group = channels // groups
    start = batch * cells * channels + group * of_group
    channel = tl.arange(0, WIDE)
    count = cells * of_group
    # From the first value on: squares of what is far from 0 would drown the variance.
    offset = tl.load(x_ptr + start).to(tl.float32)
    sums, squares = moments_of(x_ptr, start, cells, 0, cells, channels, offset, of_group, STEP,
                               WIDE)  # fmt: skip
    mean = tl.sum(sums, 0) / count
    variance = tl.maximum(tl.sum(squares, 0) / count - mean * mean, 0.0)
    rate = 1 / tl.sqrt(variance + eps)
    mine = channel < of_group
    weight = tl.load(weight_ptr + group * of_group + channel, mine, 0.0).to(tl.float32)
    bias = tl.load(bias_ptr + group * of_group + channel, mine, 0.0).to(tl.float32)
    scale = weight * rate
    shift = bias - (mean + offset) * scale
    for begin in range(0, cells, STEP):
        cell = begin + tl.arange(0, STEP)
        put(x_ptr, y_ptr, start, cell, cells, channels, channel, mine, scale, shift)


@triton.jit
def moments_kernel(
    x_ptr, moments_ptr, cells, channels, groups,
    STEP: tl.constexpr, PART: tl.constexpr, WIDE: tl.constexpr, GROUPS: tl.constexpr,
):  # fmt: skip
    """A program per part of a picture: moments (B, parts, 2, groups) of each group from 0 on."""
    part, batch = tl.program_id(0), tl.program_id(1).to(tl.int64)
    of_group = channels // groups
    group, channel = tl.arange(0, GROUPS), tl.arange(0, WIDE)
    mine = (group < groups)[:, None] & (channel < of_group)[None, :]
    start = batch * cells * channels
    sums, squares = tl.zeros([GROUPS], tl.float32), tl.zeros([GROUPS], tl.float32)
    offset = tl.load(x_ptr + start + group * of_group, group < groups, 0.0).to(tl.float32)
    for begin in range(0, PART, STEP):
        cell = part * PART + begin + tl.arange(0, STEP)
        place = cell[:, None, None] * channels
        place += (group * of_group)[None, :, None] + channel[None, None, :]
        inside = (cell < cells)[:, None, None] & mine[None, :, :]
        x = tl.load((x_ptr + start) + place, inside, 0.0).to(tl.float32)
        apart = tl.where(inside, x - offset[None, :, None], 0.0)
        sums += tl.sum(tl.sum(apart, 2), 0)
        squares += tl.sum(tl.sum(apart * apart, 2), 0)
    place = ((batch * tl.num_programs(0) + part) * 2) * groups + group
    tl.store(moments_ptr + place, sums, group < groups)
    tl.store(moments_ptr + place + groups, squares, group < groups)


@triton.jit
def apply_kernel(
    x_ptr, moments_ptr, weight_ptr, bias_ptr, y_ptr, cells, channels, groups, parts, eps,
    STEP: tl.constexpr, STEPS: tl.constexpr, PARTS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program per STEPS * STEP cells, all channels: moments put together, then values."""
    part, batch = tl.program_id(0), tl.program_id(1).to(tl.int64)
    of_group = channels // groups
    channel = tl.arange(0, BLOCK)
    mine = channel < channels
    group = channel // of_group
    start = batch * cells * channels
    piece = tl.arange(0, PARTS)
    moments_ptr += batch * parts * 2 * groups
    found = piece[:, None] * 2 * groups + group[None, :]
    there = (piece < parts)[:, None] & mine[None, :]
    count = cells * of_group
    offset = tl.load(x_ptr + start + group * of_group, mine, 0.0).to(tl.float32)
    mean = tl.sum(tl.load(moments_ptr + found, there, 0.0), 0) / count
    squares = tl.sum(tl.load(moments_ptr + found + groups, there, 0.0), 0) / count
    rate = 1 / tl.sqrt(tl.maximum(squares - mean * mean, 0.0) + eps)
    scale = tl.load(weight_ptr + channel, mine, 0.0).to(tl.float32) * rate
    shift = tl.load(bias_ptr + channel, mine, 0.0).to(tl.float32) - (mean + offset) * scale
    for number in range(STEPS):
        cell = (part * STEPS + number) * STEP + tl.arange(0, STEP)
        put(x_ptr, y_ptr, start, cell, cells, channels, channel, mine, scale, shift)


def norm_silu(
    x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, whole: int
) -> Tensor:
    """See `flexvar.ops.groups`."""
    batch, channels, height, width = x.shape
    x = x.contiguous(memory_format=torch.channels_last)
    y = torch.empty_like(x, memory_format=torch.channels_last)
    cells, of_group = height * width, channels // groups
    if cells <= whole:
        wide = triton.next_power_of_2(of_group)
        with on(x):
            whole_kernel[(batch * groups,)](
                x, weight, bias, y, cells, channels, groups, eps,
                STEP=min(STEP, triton.next_power_of_2(cells)), WIDE=wide, num_warps=8,
            )  # fmt: skip
        return y
    size = max(PART, triton.next_power_of_2(triton.cdiv(cells, PARTS)))
    parts = triton.cdiv(cells, size)
    moments = torch.empty(batch, parts, 2, groups, device=x.device, dtype=torch.float32)
    block = triton.next_power_of_2(channels)
    # Within one part, or cells of the next would be counted twice.
    step = max(1, min(PART, 4096 // block))
    with on(x):
        moments_kernel[(parts, batch)](
            x, moments, cells, channels, groups, STEP=step, PART=size,
            WIDE=triton.next_power_of_2(of_group), GROUPS=triton.next_power_of_2(groups),
            num_warps=8,
        )  # fmt: skip
        apply_kernel[(triton.cdiv(cells, step * STEPS), batch)](
            x, moments, weight, bias, y, cells, channels, groups, parts, eps,
            STEP=step, STEPS=STEPS, PARTS=triton.next_power_of_2(parts),
            BLOCK=block, num_warps=8,
        )  # fmt: skip
    return y
