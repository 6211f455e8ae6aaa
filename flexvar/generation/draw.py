"""Guidance, temperature, top-k, top-p and the draw: pure functions of logits and numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from flexvar.components.sampler import Filters
from flexvar.layout import Grid
from flexvar.ops import fusion
from flexvar.ops.fusion import Fusion

GuidanceSchedule = Literal["ramp", "ramp10", "constant"]
GUIDANCE_SCHEDULES: tuple[GuidanceSchedule, ...] = get_args(GuidanceSchedule)

# FlexVAR's code: the ramp is full after ten steps, and beyond the trained side of 16 cells.
RAMP10_STEPS = 9
RAMP10_SIDE = 16
# So many of the likeliest tokens nearly always hold the nucleus.
FEW = 1024
# Logits of one token that a kernel holds in registers.
MOST_VALUES = 16384


def guidance_weight(
    schedule: GuidanceSchedule, guidance: float, layout: Sequence[Grid], step: int
) -> float:
    """The weight t of ``(1 + t) * conditional - t * unconditional`` logits at a step.

    ``ramp``: t = guidance * k / (K-1) (VAR's code). ``ramp10``: t = guidance * k / min(K-1, 9),
    and t = guidance for a grid with a side over 16 (FlexVAR's code). ``constant``: t =
    guidance - 1, which is LlamaGen's unconditional + guidance * (conditional - unconditional).
    With one scale only, the ramp is at its end.
    """
    last = len(layout) - 1
    if schedule == "constant":
        return guidance - 1
    if last == 0 or (schedule == "ramp10" and max(layout[step]) > RAMP10_SIDE):
        return guidance
    return guidance * step / (min(last, RAMP10_STEPS) if schedule == "ramp10" else last)


def guide(cond: Tensor, uncond: Tensor, weight: float) -> Tensor:
    """Classifier-free guidance: ``(1 + weight) * cond - weight * uncond``.

    Of logits (B,L,V), or of what logits are a linear function of.
    """
    return (1 + weight) * cond - weight * uncond


def filter_logits(logits_BLV: Tensor, *, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """Logits with all but the likeliest tokens at -inf: top-k first, then top-p within it.

    Logits are (B,L,V), or (B,L,G,V) for tokens of several parts, each filtered by itself.

    top_k: how many tokens stay (ties with the last one stay too); 0 is off. top_p: of those,
    the likeliest whose probabilities before them sum to less than ``top_p``; 1 is off. At least
    one token stays. Only ``top_k`` values are sorted; without ``top_k`` all of them, on a CPU only
    as many as the nucleus needs (a quarter of the time, and to look at numbers costs nothing
    there).
    """
    vocab_size = logits_BLV.shape[-1]
    if (top_k <= 0 or top_k >= vocab_size) and top_p >= 1:
        return logits_BLV
    if 0 < top_k < vocab_size:
        values = logits_BLV.topk(top_k, dim=-1).values
        total = values.logsumexp(dim=-1, keepdim=True)
        cut = values[..., -1:] if top_p >= 1 else _nucleus_cut(values, total, top_p)
    else:
        total = logits_BLV.logsumexp(dim=-1, keepdim=True)
        cut = _nucleus_cut(_likeliest(logits_BLV, total, top_p), total, top_p)
    return logits_BLV.masked_fill(logits_BLV < cut, -torch.inf)


def _likeliest(logits_BLV: Tensor, total_BL1: Tensor, top_p: float) -> Tensor:
    """The logits in falling order, (B,L,K), as many as the nucleus needs or more."""
    vocab_size = logits_BLV.shape[-1]
    if vocab_size > FEW and logits_BLV.device.type == "cpu" and not torch.compiler.is_compiling():
        values = logits_BLV.topk(FEW, dim=-1).values
        mass = (values - total_BL1).exp().sum(dim=-1)
        if not bool((mass < top_p).any()):
            return values
    return logits_BLV.sort(dim=-1, descending=True).values


def _nucleus_cut(sorted_BLK: Tensor, total_BL1: Tensor, top_p: float) -> Tensor:
    """The smallest of the sorted logits that belongs to the nucleus, (B,L,1)."""
    probability = (sorted_BLK - total_BL1).exp()
    before = probability.cumsum(dim=-1) - probability
    count = (before < top_p).sum(dim=-1, keepdim=True).clamp_min(1)
    return sorted_BLK.gather(-1, count - 1)


def draw(logits_BLV: Tensor, uniform_BL: Tensor) -> Tensor:
    """Tokens (B,L): where the cumulative distribution of the logits passes the given numbers.

    uniform_BL: one number in [0,1) per token. The same number gives the same token whatever
    else is in the batch, and needs no noise of vocabulary size. Of tokens of several parts
    all have one more axis: logits (B,L,G,V), one number and one value per part.
    """
    cumulative = logits_BLV.softmax(dim=-1).cumsum(dim=-1)
    total = cumulative[..., -1:]
    # Strictly below the total, so that rounding cannot pick a token of no probability.
    threshold = torch.minimum(
        uniform_BL[..., None] * total, torch.nextafter(total, torch.zeros_like(total))
    )
    index = torch.searchsorted(cumulative, threshold, right=True)
    return index.squeeze(-1)


def fits(logits_BLV: Tensor) -> bool:
    """Whether a kernel is taken that filters and draws at once."""
    return (
        logits_BLV.shape[-1] <= MOST_VALUES
        and logits_BLV.dtype == torch.float32
        and fusion.takes(DRAW, logits_BLV)
    )


def filtered(logits_BLV: Tensor, uniform_BL: Tensor, filters: Filters) -> Tensor:
    """Tokens as of `draw` after `filter_logits`, in one launch.

    Sums are added in another order, so that a number within 1e-6 of where two tokens meet may give
    the other one, and a logit as close to the end of the nucleus may stay or go. Logits that are no
    distribution (a NaN, all -inf) give some token, where `draw` gives V, which is none.
    """
    return _draw_token(logits_BLV, uniform_BL, filters.top_k, filters.top_p, filters.temperature)


def _plain_draw(
    logits_BLV: Tensor, uniform_BL: Tensor, top_k: int, top_p: float, temperature: float
) -> tuple[Tensor]:
    logits_BLV = logits_BLV / temperature
    return (draw(filter_logits(logits_BLV, top_k=top_k, top_p=top_p), uniform_BL),)


def _fused_draw(*given: Any) -> tuple[Tensor]:
    return (_draw_token(*given),)


def _fake_draw(
    logits: Tensor, uniform: Tensor, top_k: int, top_p: float, temperature: float
) -> Tensor:
    return torch.empty_like(uniform, dtype=torch.int64, memory_format=torch.contiguous_format)


_draw_token = fusion.operator(
    "draw_token(Tensor logits, Tensor uniform, int top_k, float top_p, float temperature) "
    "-> Tensor",
    _fake_draw,
    "flexvar.ops.kernels.draw",
)


def _draw_cases(source: torch.Generator) -> Iterator[tuple[Any, ...]]:
    for vocab, top_k, top_p, temperature in (
        (50, 0, 1.0, 1.0),
        (50, 7, 1.0, 0.7),
        (64, 0, 0.8, 1.0),
        (300, 40, 0.9, 1.5),
        (2, 1, 0.5, 1.0),
        (33, 90, 1e-6, 1.0),
    ):
        yield *_draw_case(source, 2, 6, vocab), top_k, top_p, temperature
    # Ties, at the last of the top-k too, and logits that others left out.
    logits, uniform = _draw_case(source, 1, 8, 40)
    yield logits.round(), uniform, 12, 0.9, 1.0
    yield logits.masked_fill(logits < 0, -torch.inf), uniform, 30, 1.0, 1.0


def _draw_case(
    source: torch.Generator, batch: int, length: int, vocab: int
) -> tuple[Tensor, Tensor]:
    logits = torch.randn(batch, length, vocab, generator=source) * 3
    return logits, torch.rand(batch, length, generator=source)


DRAW = Fusion(
    "draw_token",
    "temperature, top-k, top-p and the draw of a token from a number",
    _plain_draw,
    _fused_draw,
    _draw_cases,
    lambda source: (*_draw_case(source, 1, 256, 8912), 900, 0.95, 1.0),
    dtypes=(torch.float32,),
)


def soft_weights(logits_BLV: Tensor, gumbel_BLV: Tensor, ratio: float) -> Tensor:
    """Weights (B,L,V) of a mean code: VAR's ``more_smooth``, for looks rather than for scores.

    ratio: k / (K-1). A Gumbel-softmax of ``logits * (1 + ratio)`` whose temperature falls from
    0.27 to 0.0135 (VAR's code).
    """
    temperature = max(0.27 * (1 - 0.95 * ratio), 0.005)
    return F.softmax((logits_BLV * (1 + ratio) + gumbel_BLV) / temperature, dim=-1)
