"""Temperature, top-k, top-p and the draw of a token in one program, its logits in registers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from flexvar.ops.kernels.launch import on, warps


@triton.jit
def draw_kernel(
    logits_ptr, uniform_ptr, token_ptr, vocab, top_k, top_p, temperature,
    TOP_K: tl.constexpr, TOP_P: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program per token. Cuts are found bit by bit: 32 sums each, whatever the logits are."""
    row = tl.program_id(0).to(tl.int64)
    value = tl.arange(0, BLOCK)
    inside = value < vocab
    logits = tl.load((logits_ptr + row * vocab) + value, inside, float("-inf"))
    # Adding 0 makes one number of both zeros, which have to be one key.
    logits = tl.div_rn(logits, temperature + tl.zeros([BLOCK], tl.float32)) + 0.0
    # Whole numbers in the order of the logits.
    bits = logits.to(tl.int32, bitcast=True)
    key = tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
    weight = tl.where(inside, tl.exp(logits - tl.max(logits, 0)), 0.0)
    cut = tl.full([], -2147483648, tl.int64)
    if TOP_K:
        # The largest cut that top_k logits reach: the last of them.
        for number in range(32):
            higher = cut + (tl.full([], 1, tl.int64) << (31 - number))
            reach = tl.sum((inside & (key >= higher.to(tl.int32))).to(tl.int32), 0)
            cut = tl.where(reach >= top_k, higher, cut)
    if TOP_P:
        last = cut.to(tl.int32)
        above = inside & (key > last)
        total = tl.sum(tl.where(above, weight, 0.0), 0)
        if TOP_K:
            # Of those that are as likely as the last one only so many count.
            equal = tl.max(tl.where(inside & (key == last), weight, 0.0), 0)
            total += (top_k - tl.sum(above.to(tl.int32), 0)) * equal
        # The largest cut above which there is enough already; the nucleus starts behind it.
        enough = tl.full([], -2147483648, tl.int64)
        for number in range(32):
            higher = enough + (tl.full([], 1, tl.int64) << (31 - number))
            mass = tl.sum(tl.where(key > higher.to(tl.int32), weight, 0.0), 0)
            enough = tl.where(mass >= top_p * total, higher, enough)
        cut = tl.maximum(cut, enough + 1)
    kept = inside & (key >= cut.to(tl.int32))
    weight = tl.where(kept, weight, 0.0)
    cumulative = tl.cumsum(weight, 0)
    total = tl.max(cumulative, 0)
    # Strictly below the total, so that rounding cannot leave all behind.
    passed = tl.load(uniform_ptr + row) * total
    passed = tl.minimum(passed, total * (1 - 1.2e-7))
    # Of logits without a distribution (a NaN, all -inf) none is passed: the last, which is a token.
    token = tl.min(tl.where(kept & (cumulative > passed), value, vocab - 1), 0)
    tl.store(token_ptr + row, token.to(tl.int64))


def draw_token(
    logits: Tensor, uniform: Tensor, top_k: int, top_p: float, temperature: float
) -> Tensor:
    """See `flexvar.generation.draw`."""
    vocab = logits.shape[-1]
    logits, uniform = logits.contiguous(), uniform.contiguous()
    tokens = torch.empty(uniform.shape, device=logits.device, dtype=torch.int64)
    block = triton.next_power_of_2(vocab)
    with on(logits):
        draw_kernel[(tokens.numel(),)](
            logits, uniform, tokens, vocab, top_k, top_p, temperature,
            TOP_K=0 < top_k < vocab, TOP_P=top_p < 1, BLOCK=block,
            num_warps=warps(block),
        )  # fmt: skip
    return tokens
