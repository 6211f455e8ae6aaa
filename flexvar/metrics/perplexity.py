"""How many codes are in use, and how evenly."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

IN_USE = 0.03


def code_counts(maps: Sequence[Tensor], vocab_size: int, groups: int = 1) -> Tensor:
    """How often each code stands in the maps, int64: (V,) of (B,h,w), (G,V) of (B,h,w,G)."""
    parts_NG = torch.cat([tokens.reshape(-1, groups) for tokens in maps])
    offset_G = torch.arange(groups, device=parts_NG.device) * vocab_size
    counts = torch.bincount((parts_NG + offset_G).flatten(), minlength=groups * vocab_size)
    return counts if groups == 1 else counts.view(groups, vocab_size)


def usage(counts: Tensor, least: float = IN_USE) -> float:
    """Share of the codes that are in use, in [0,1]; of (G,V) the mean over the parts.

    A code is in use if its share of the tokens is at least ``least`` of an even one.
    """
    share = counts.double() / counts.sum(dim=-1, keepdim=True)
    return float((share >= least / counts.shape[-1]).double().mean())


def perplexity(counts: Tensor) -> float:
    """exp of the entropy of the codes' distribution, in [1,V]; of (G,V) the mean over the parts."""
    share = counts.double() / counts.sum(dim=-1, keepdim=True)
    return float(torch.special.entr(share).sum(dim=-1).exp().mean())
