"""The selective state-space scan of Mamba-2 and its convolution: plain, and in matrix products.

Per head, with a state S (d,N) that starts at the one given or at zero (arXiv 2405.21060, eq. 1
and section 7):

    S_t = exp(dt_t * rate) * S_(t-1) + dt_t * x_t write_t^T        y_t = S_t read_t + skip * x_t

``write`` and ``read`` are the paper's B and C, shared by all heads; ``rate`` is its A, negative;
``skip`` its D. Shapes: x (B,L,H,d), H heads of d channels; dt (B,L,H); rate and skip (H);
write and read (B,L,N), N the state size; states (B,H,d,N). dt, rate, skip and states are fp32,
y has the dtype of x. The state that comes back continues the sequence in a next call.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

# Tokens per chunk unless an option says otherwise. The work inside a chunk grows with its length,
# the number of states with its inverse; 64 was fastest on two CPU cores (the suite scan).
CHUNK = 64


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a scan reads; see the top of this file. state_BHdN is None for zeros."""

    x_BLHd: Tensor
    dt_BLH: Tensor
    rate_H: Tensor
    write_BLN: Tensor
    read_BLN: Tensor
    skip_H: Tensor
    state_BHdN: Tensor | None = None


Scan = Callable[[Inputs, int | None], tuple[Tensor, Tensor]]
Convolve = Callable[[Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]


def reference(inputs: Inputs, chunk_size: int | None = None) -> tuple[Tensor, Tensor]:
    """The definition, token by token in fp32: y (B,L,H,d) and the state after the last token."""
    del chunk_size
    x_BLHd, write_BLN, read_BLN = (
        t.float() for t in (inputs.x_BLHd, inputs.write_BLN, inputs.read_BLN)
    )
    state_BHdN = _state_or_zeros(inputs)
    outputs = []
    for token in range(x_BLHd.shape[1]):
        x_BHd, dt_BH = x_BLHd[:, token], inputs.dt_BLH[:, token]
        decay_BH = torch.exp(dt_BH * inputs.rate_H)
        written = (dt_BH[..., None] * x_BHd)[..., None] * write_BLN[:, token, None, None]
        state_BHdN = decay_BH[..., None, None] * state_BHdN + written
        y_BHd = (state_BHdN * read_BLN[:, token, None, None]).sum(dim=-1)
        outputs.append(y_BHd + inputs.skip_H[:, None] * x_BHd)
    return torch.stack(outputs, dim=1).to(inputs.x_BLHd.dtype), state_BHdN


def chunked(inputs: Inputs, chunk_size: int | None = None) -> tuple[Tensor, Tensor]:
    """The same in matrix products over chunks of tokens (arXiv 2405.21060, section 6).

    Inside a chunk, y is a masked product of read, write and x, as in attention; between chunks
    only the state passes. Decays and states are fp32; the products run in the dtype of x.
    """
    x_BLHd, dtype = inputs.x_BLHd, inputs.x_BLHd.dtype
    length, heads = x_BLHd.shape[1:3]
    count, size = _chunks(length, chunk_size or CHUNK)

    def cut(t: Tensor) -> Tensor:
        # A padded token has dt = 0: it neither writes nor decays.
        missing = count * size - length
        padded = F.pad(t, (0, 0) * (t.dim() - 2) + (0, missing)) if missing else t
        return padded.unflatten(1, (count, size))

    x_BcqHd, write_BcqN, read_BcqN = map(cut, (x_BLHd, inputs.write_BLN, inputs.read_BLN))
    dt_BcHq = cut(inputs.dt_BLH).transpose(2, 3).contiguous()

    # log of the decay from before the chunk to after each of its tokens
    log_BcHq = (dt_BcHq * inputs.rate_H[:, None]).cumsum(dim=3)
    total_BcH1 = log_BcHq[..., -1:]

    # Inside: what token i reads of token j <= i, itself and its skip included. The upper half is
    # masked before the exponential, where it would overflow.
    span_BcHqq = log_BcHq[..., :, None] - log_BcHq[..., None, :]
    later_qq = torch.ones(size, size, dtype=torch.bool, device=x_BLHd.device).triu(1)
    decay_BcHqq = span_BcHqq.masked_fill_(later_qq, float("-inf")).exp_()
    weight_Bcqq = (read_BcqN @ write_BcqN.mT).float()
    seen_BcHqq = decay_BcHqq * dt_BcHq[..., None, :] * weight_Bcqq[:, :, None]
    if torch.compiler.is_compiling():
        # The same where a graph is made, in which no view can be written to.
        seen_BcHqq = seen_BcHqq + torch.diag_embed(inputs.skip_H[:, None].expand(heads, size))
    else:
        seen_BcHqq.diagonal(dim1=-2, dim2=-1).add_(inputs.skip_H[:, None])

    # Between: how far what a token writes fades to the chunk's end, and the state before the
    # chunk to each of its tokens.
    to_end_BcqH1 = ((total_BcH1 - log_BcHq).exp() * dt_BcHq).transpose(2, 3)[..., None]
    from_start_BcqH1 = log_BcHq.exp().transpose(2, 3)[..., None]
    # Chunk by chunk, so that what one needs stays in the cache: a quarter less time than all
    # chunks at once. unbind, not indexing: the gradient of an index is as large as the whole.
    chunks = zip(
        x_BcqHd.unbind(1),
        read_BcqN.unbind(1),
        write_BcqN.unbind(1),
        seen_BcHqq.to(dtype).unbind(1),
        to_end_BcqH1.to(dtype).unbind(1),
        from_start_BcqH1.to(dtype).unbind(1),
        total_BcH1.exp()[..., None].unbind(1),
        strict=True,
    )
    state_BHdN, parts = inputs.state_BHdN, []
    for x_BqHd, read_BqN, write_BqN, seen_BHqq, to_end_BqH1, from_start_BqH1, decay_BH11 in chunks:
        y_BqHd = (seen_BHqq @ x_BqHd.transpose(1, 2)).transpose(1, 2)
        # All heads share write and read, so that each is one product over (H d).
        added_BEN = (x_BqHd * to_end_BqH1).flatten(2).mT @ write_BqN
        added_BHdN = added_BEN.float().unflatten(1, (heads, -1))
        if state_BHdN is None:
            state_BHdN = added_BHdN
        else:
            found_BqE = read_BqN @ state_BHdN.flatten(1, 2).to(dtype).mT
            y_BqHd = torch.addcmul(y_BqHd, found_BqE.unflatten(2, (heads, -1)), from_start_BqH1)
            state_BHdN = torch.addcmul(added_BHdN, decay_BH11, state_BHdN)
        parts.append(y_BqHd)
    assert state_BHdN is not None
    return torch.cat(parts, dim=1)[:, :length], state_BHdN


def _chunks(length: int, longest: int) -> tuple[int, int]:
    """How many chunks of equal length, and how long; up to twice as many where none is padded."""
    fewest = -(-length // longest)
    count = next((n for n in range(fewest, 2 * fewest + 1) if length % n == 0), fewest)
    return count, -(-length // count)


def _state_or_zeros(inputs: Inputs) -> Tensor:
    if inputs.state_BHdN is not None:
        return inputs.state_BHdN
    batch, _, heads, dim = inputs.x_BLHd.shape
    return inputs.dt_BLH.new_zeros(batch, heads, dim, inputs.write_BLN.shape[-1])


def convolve(
    x_BLE: Tensor, weight_EW: Tensor, bias_E: Tensor, tail_BTE: Tensor | None
) -> tuple[Tensor, Tensor]:
    """SiLU of the causal convolution per channel, (B,L,E), and the last W-1 inputs, (B,W-1,E).

    tail_BTE: the inputs before x, T = W-1 of them; None for zeros. With fewer than W-1 tokens
    the new tail still holds part of the old one.
    """
    width = weight_EW.shape[1]
    if tail_BTE is None:
        joined_BTE = F.pad(x_BLE, (0, 0, width - 1, 0))
    else:
        joined_BTE = torch.cat([tail_BTE, x_BLE], dim=1)
    # As an image of one row in channels-last order nothing has to be transposed: 4 to 6 times
    # faster than conv1d on a CPU.
    image_BE1T = joined_BTE.transpose(1, 2)[:, :, None]
    y_BE1L = F.conv2d(image_BE1T, weight_EW[:, None, None], bias_E, groups=weight_EW.shape[0])
    # A copy, so that the state does not keep the whole input alive.
    tail_BTE = joined_BTE[:, 1 - width :].clone()
    return F.silu(y_BE1L[:, :, 0].transpose(1, 2)), tail_BTE
