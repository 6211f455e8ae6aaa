"""Triton's code of Mamba-2's mixer over one chunk: convolution, scan, gated norm, a launch each."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from flexvar.ops.kernels.launch import on, warps

# Tokens and channels of one program of the convolution; tokens of a tile of the scan.
TOKENS, CHANNELS, TILE = 16, 64, 64


@triton.jit
def convolve_kernel(
    x_ptr, weight_ptr, bias_ptr, tail_ptr, y_ptr, after_ptr,
    length, channels, x_batch, x_row, weight_row,
    WIDTH: tl.constexpr, TAIL: tl.constexpr, TOKENS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """A program per TOKENS tokens and CHANNELS channels of one row."""
    part, batch = tl.program_id(0), tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    mine = (channel < channels)[None, :]
    token = part * TOKENS + tl.arange(0, TOKENS)
    x_ptr += batch * x_batch
    tail_ptr += batch * (WIDTH - 1) * channels
    after_ptr += batch * (WIDTH - 1) * channels
    y_ptr += batch * length * channels
    bias = tl.load(bias_ptr + channel, channel < channels, 0.0).to(tl.float32)
    sums = tl.zeros([TOKENS, CHANNELS], tl.float32) + bias[None, :]
    for number in tl.static_range(WIDTH):
        weight = tl.load(weight_ptr + channel * weight_row + number, channel < channels, 0.0)
        source = token + (number - WIDTH + 1)
        here = (source >= 0)[:, None] & (source < length)[:, None] & mine
        place = source[:, None] * x_row + channel[None, :]
        x = tl.load(x_ptr + place, here, 0.0).to(tl.float32)
        if TAIL:
            before = (source < 0)[:, None] & mine
            place = (source[:, None] + WIDTH - 1) * channels
            x += tl.load(tail_ptr + place + channel[None, :], before, 0.0).to(tl.float32)
        sums += x * weight[None, :].to(tl.float32)
    y = (sums / (1 + tl.exp(-sums))).to(y_ptr.dtype.element_ty)
    place = token[:, None] * channels + channel[None, :]
    tl.store(y_ptr + place, y, (token < length)[:, None] & mine)
    # The last inputs, of which some may be of the tail before.
    for number in tl.static_range(WIDTH - 1):
        source = length + number - (WIDTH - 1)
        first = (channel < channels) & (channel * 0 + part == 0)
        x = tl.load(x_ptr + source * x_row + channel,
                    first & (channel * 0 + source >= 0), 0.0)  # fmt: skip
        if TAIL:
            place = (source + WIDTH - 1) * channels + channel
            x += tl.load(tail_ptr + place, first & (channel * 0 + source < 0), 0.0)
        place = number * channels + channel
        tl.store(after_ptr + place, x, first)


@triton.jit
def softplus(x):
    """log(1 + e^x) with the digits of small results kept (Kahan's log1p)."""
    e = tl.exp(tl.minimum(x, 20.0))
    one = 1 + e
    near = tl.where(one == 1, e, tl.log(one) * e / tl.where(one == 1, 1.0, one - 1))
    return tl.where(x > 20.0, x, near)


@triton.jit
def steps(dt_ptr, token, length, dt_row, dt_bias):
    """Step sizes dt of some tokens of a head; 0 behind the last."""
    dt = tl.load(dt_ptr + token * dt_row, token < length, 0.0).to(tl.float32)
    return tl.where(token < length, softplus(dt + dt_bias), 0.0)


@triton.jit
def scan_kernel(
    mixed_ptr, dt_ptr, dt_bias_ptr, rate_ptr, skip_ptr, state_ptr, y_ptr, after_ptr,
    length, heads, dim, states, tiles, mixed_row, dt_batch, dt_row,
    STATE: tl.constexpr, TILE: tl.constexpr, DIM: tl.constexpr, STATES: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """A program per head and tile of tokens, and one per head for the state after them."""
    tile, head, batch = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    kind = mixed_ptr.dtype.element_ty
    place, channel, slot = tl.arange(0, TILE), tl.arange(0, DIM), tl.arange(0, STATES)
    mine, kept = channel < dim, slot < states
    rate, skip = tl.load(rate_ptr + head), tl.load(skip_ptr + head)
    dt_bias = tl.load(dt_bias_ptr + head)
    # Pointers are moved by 64 bits once, and from there by 32: tiles of 64 bits cost registers.
    dt_ptr += batch * dt_batch + head
    x_ptr = mixed_ptr + batch * length * mixed_row + head * dim
    write_ptr = mixed_ptr + batch * length * mixed_row + heads * dim
    read_ptr = write_ptr + states
    state_ptr += (batch * heads + head) * dim * states
    after_ptr += (batch * heads + head) * dim * states
    y_ptr += (batch * length * heads + head) * dim
    into = channel[:, None] * states + slot[None, :]
    whole = mine[:, None] & kept[None, :]
    if tile < tiles:
        # log of the decay from before the first token to after each of this tile.
        base = 0.0
        for number in range(tile):
            base += tl.sum(steps(dt_ptr, number * TILE + place, length, dt_row, dt_bias), 0)
        token = tile * TILE + place
        dt = steps(dt_ptr, token, length, dt_row, dt_bias)
        log = (base + tl.cumsum(dt, 0)) * rate
        here = (token < length)[:, None]
        read = tl.load(read_ptr + token[:, None] * mixed_row + slot[None, :],
                       here & kept[None, :], 0.0)  # fmt: skip
        y = tl.zeros([TILE, DIM], tl.float32)
        before = 0.0
        for number in range(tile + 1):
            other = number * TILE + place
            dt_other = steps(dt_ptr, other, length, dt_row, dt_bias)
            log_other = (before + tl.cumsum(dt_other, 0)) * rate
            before += tl.sum(dt_other, 0)
            there = (other < length)[:, None]
            write = tl.load(write_ptr + other[:, None] * mixed_row + slot[None, :],
                            there & kept[None, :], 0.0)  # fmt: skip
            x = tl.load(x_ptr + other[:, None] * mixed_row + channel[None, :],
                        there & mine[None, :], 0.0)  # fmt: skip
            seen = tl.dot(read, tl.trans(write), input_precision=PRECISION)
            earlier = other[None, :] <= token[:, None]
            # Masked before the exponential, where it would overflow.
            decay = tl.exp(tl.where(earlier, log[:, None] - log_other[None, :], float("-inf")))
            seen = seen * decay * dt_other[None, :]
            seen += tl.where(other[None, :] == token[:, None], skip, 0.0)
            y += tl.dot(seen.to(kind), x, input_precision=PRECISION)
        if STATE:
            state = tl.load(state_ptr + into, whole, 0.0)
            found = tl.dot(read, tl.trans(state).to(kind), input_precision=PRECISION)
            y += found * tl.exp(log)[:, None]
        out = token[:, None] * heads * dim + channel[None, :]
        tl.store(y_ptr + out, y.to(kind), here & mine[None, :])
    else:
        total = 0.0
        for number in range(tiles):
            total += tl.sum(steps(dt_ptr, number * TILE + place, length, dt_row, dt_bias), 0)
        after = tl.zeros([DIM, STATES], tl.float32)
        before = 0.0
        for number in range(tiles):
            token = number * TILE + place
            dt = steps(dt_ptr, token, length, dt_row, dt_bias)
            fades = tl.exp((total - before - tl.cumsum(dt, 0)) * rate) * dt
            before += tl.sum(dt, 0)
            here = (token < length)[:, None]
            write = tl.load(write_ptr + token[:, None] * mixed_row + slot[None, :],
                            here & kept[None, :], 0.0)  # fmt: skip
            x = tl.load(x_ptr + token[:, None] * mixed_row + channel[None, :],
                        here & mine[None, :], 0.0)  # fmt: skip
            written = (x.to(tl.float32) * fades[:, None]).to(kind)
            after += tl.dot(tl.trans(written), write, input_precision=PRECISION)
        if STATE:
            after += tl.exp(total * rate) * tl.load(state_ptr + into, whole, 0.0)
        tl.store(after_ptr + into, after, whole)


@triton.jit
def gated_kernel(
    y_ptr, gate_ptr, weight_ptr, out_ptr, length, width, gate_batch, gate_row, eps,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """A program per token: y * silu(gate), divided by its root mean square, times a weight."""
    row = tl.program_id(0).to(tl.int64)
    batch, token = row // length, row % length
    channel = tl.arange(0, BLOCK)
    inside = channel < width
    y = tl.load(y_ptr + row * width + channel, inside, 0.0).to(tl.float32)
    gate = tl.load(gate_ptr + batch * gate_batch + token * gate_row + channel, inside, 0.0)
    gate = gate.to(tl.float32)
    y = y * gate / (1 + tl.exp(-gate))
    rate = 1 / tl.sqrt(tl.sum(y * y, 0) / width + eps)
    weight = tl.load(weight_ptr + channel, inside, 0.0).to(tl.float32)
    out = (y * rate * weight).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + row * width + channel, out, inside)


def scan_convolve(
    x: Tensor, weight: Tensor, bias: Tensor, tail: Tensor | None
) -> tuple[Tensor, Tensor]:
    """See `flexvar_plugins.backbones.one_chunk`."""
    batch, length, channels = x.shape
    width = weight.shape[1]
    x = x if x.stride(2) == 1 else x.contiguous()
    y = torch.empty(batch, length, channels, device=x.device, dtype=x.dtype)
    after = torch.empty(batch, width - 1, channels, device=x.device, dtype=x.dtype)
    with on(x):
        convolve_kernel[(triton.cdiv(length, TOKENS), triton.cdiv(channels, CHANNELS), batch)](
            x, weight, bias, x if tail is None else tail.contiguous(), y, after,
            length, channels, x.stride(0), x.stride(1), weight.stride(0),
            WIDTH=width, TAIL=tail is not None, TOKENS=TOKENS, CHANNELS=CHANNELS, num_warps=4,
        )  # fmt: skip
    return y, after


def scan_chunk(
    mixed: Tensor, dt: Tensor, dt_bias: Tensor, rate: Tensor, skip: Tensor, state: Tensor | None,
    dim: int, states: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """See `flexvar_plugins.backbones.one_chunk`."""
    batch, length, heads = dt.shape
    mixed, dt = mixed.contiguous(), dt if dt.stride(2) == 1 else dt.contiguous()
    y = torch.empty(batch, length, heads, dim, device=mixed.device, dtype=mixed.dtype)
    after = torch.empty(batch, heads, dim, states, device=mixed.device, dtype=torch.float32)
    tile = min(TILE, max(16, triton.next_power_of_2(length)))
    tiles = triton.cdiv(length, tile)
    with on(mixed):
        scan_kernel[(tiles + 1, heads, batch)](
            mixed, dt, dt_bias, rate, skip, after if state is None else state.contiguous(), y,
            after, length, heads, dim, states, tiles, mixed.stride(1), dt.stride(0), dt.stride(1),
            STATE=state is not None, TILE=tile, DIM=max(16, triton.next_power_of_2(dim)),
            STATES=max(16, triton.next_power_of_2(states)),
            PRECISION="ieee" if mixed.dtype == torch.float32 else "tf32", num_warps=8,
        )  # fmt: skip
    return y, after


def gated_norm(y: Tensor, gate: Tensor, weight: Tensor, eps: float) -> Tensor:
    """See `flexvar_plugins.backbones.one_chunk`."""
    batch, length, width = gate.shape
    gate = gate if gate.stride(2) == 1 else gate.contiguous()
    out = torch.empty(batch, length, width, device=gate.device, dtype=gate.dtype)
    block = triton.next_power_of_2(width)
    with on(gate):
        gated_kernel[(batch * length,)](
            y.contiguous(), gate, weight, out, length, width, gate.stride(0), gate.stride(1), eps,
            BLOCK=block, num_warps=warps(block),
        )  # fmt: skip
    return out
