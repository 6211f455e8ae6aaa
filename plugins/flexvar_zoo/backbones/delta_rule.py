"""The gated delta rule: the plain recurrence, and the same in matrix products over chunks.

Per head, with a state S (d,d) that starts at the one given or at zero (Gated DeltaNet, arXiv
2412.06464, eq. 10):

    S_t = a_t S_(t-1) (1 - b_t k_t k_t^T) + b_t v_t k_t^T        o_t = S_t q_t

a_t in (0,1] fades what is remembered, b_t in [0,1] is how far the value under key k_t is replaced.
Shapes: q, k, v (B,L,H,d), keys of length 1; log_decay, the logarithm of a, and beta (B,L,H);
states (B,H,d,d), rows by value and columns by key. All of it in fp32.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

# Tokens per chunk: the triangular solve grows with its square, the number of states falls with it.
CHUNK = 32
Rule = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]


def reference(
    q_BLHd: Tensor,
    k_BLHd: Tensor,
    v_BLHd: Tensor,
    log_decay_BLH: Tensor,
    beta_BLH: Tensor,
    state_BHdd: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The definition, token by token: outputs (B,L,H,d) and the state after the last token."""
    state = zeros(q_BLHd) if state_BHdd is None else state_BHdd
    outputs = []
    for token in range(q_BLHd.shape[1]):
        q, k, v = (x[:, token, :, :, None] for x in (q_BLHd, k_BLHd, v_BLHd))
        state = state * log_decay_BLH[:, token, :, None, None].exp()
        wrong = v - state @ k
        state = state + beta_BLH[:, token, :, None, None] * wrong @ k.mT
        outputs.append((state @ q)[..., 0])
    return torch.stack(outputs, dim=1), state


def chunked(
    q_BLHd: Tensor,
    k_BLHd: Tensor,
    v_BLHd: Tensor,
    log_decay_BLH: Tensor,
    beta_BLH: Tensor,
    state_BHdd: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The same by the WY form (arXiv 2412.06464, section 3.3).

    What token t writes is u_t = b_t (v_t - a_t S_(t-1) k_t). Inside a chunk that is a triangular
    system for all u of the chunk; it is solved for all chunks together, as a part from v and a
    part that waits for the state before the chunk. Then only the state goes from chunk to chunk.
    """
    length = q_BLHd.shape[1]
    size = min(CHUNK, length)

    def cut(x: Tensor) -> Tensor:
        # A padded token has beta 0 and log-decay 0: it neither writes nor fades.
        padded = F.pad(x, (0, 0) * (x.dim() - 2) + (0, -length % size))
        return padded.unflatten(1, (-1, size)).movedim(3, 2)

    q_BcHqd, k_BcHqd, v_BcHqd = map(cut, (q_BLHd, k_BLHd, v_BLHd))
    beta_BcHq1 = cut(beta_BLH)[..., None]
    log_BcHq = cut(log_decay_BLH).cumsum(dim=-1)
    decay_BcHq1 = log_BcHq.exp()[..., None]
    later_qq = torch.ones(size, size, dtype=torch.bool, device=q_BLHd.device).triu(1)
    span_BcHqq = (log_BcHq[..., :, None] - log_BcHq[..., None, :]).masked_fill(later_qq, -torch.inf)
    fade_BcHqq = span_BcHqq.exp()

    system_BcHqq = (beta_BcHq1 * fade_BcHqq * (k_BcHqd @ k_BcHqd.mT)).tril(-1)
    sides = torch.cat([beta_BcHq1 * v_BcHqd, beta_BcHq1 * decay_BcHq1 * k_BcHqd], dim=-1)
    # Only what is below the diagonal is read; on it stands 1.
    solved = torch.linalg.solve_triangular(system_BcHqq, sides, upper=False, unitriangular=True)
    of_value, of_state = solved.chunk(2, dim=-1)
    seen_BcHqq = fade_BcHqq * (q_BcHqd @ k_BcHqd.mT)
    asked_BcHqd = decay_BcHq1 * q_BcHqd
    kept_BcHqd = fade_BcHqq[..., -1, :, None] * k_BcHqd
    total_BcH11 = decay_BcHq1[..., -1:, :]

    state = zeros(q_BLHd) if state_BHdd is None else state_BHdd
    outputs = []
    # unbind, not indexing: the gradient of an index is as large as the whole.
    parts = (of_value, of_state, seen_BcHqq, asked_BcHqd, kept_BcHqd, total_BcH11)
    for value, from_state, seen, asked, kept, total in zip(
        *(part.unbind(1) for part in parts), strict=True
    ):
        written_BHqd = value - from_state @ state.mT
        outputs.append(asked @ state.mT + seen @ written_BHqd)
        state = total * state + written_BHqd.mT @ kept
    return torch.cat(outputs, dim=2).transpose(1, 2)[:, :length], state


def zeros(q_BLHd: Tensor) -> Tensor:
    """The state before the first token."""
    batch, _, heads, dim = q_BLHd.shape
    return q_BLHd.new_zeros(batch, heads, dim, dim)


RULES: dict[str, Rule] = {"reference": reference, "chunked": chunked}
