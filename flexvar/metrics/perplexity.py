"""How many codes are in use, and how evenly."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def code_counts(maps: Sequence[Tensor], vocab_size: int) -> Tensor:
    """How often each code stands in the maps, (V,) int64."""
    return torch.bincount(torch.cat([map_Bhw.flatten() for map_Bhw in maps]), minlength=vocab_size)


def perplexity(counts_V: Tensor) -> float:
    """exp of the entropy of the codes' distribution, in [1,V]."""
    share = counts_V.double() / counts_V.sum()
    return float(torch.special.entr(share).sum().exp())
