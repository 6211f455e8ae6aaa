"""Random numbers: one generator per image, keyed by its seed and index."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def seed_keys(
    seed: int | Sequence[int], count: int, *, first_index: int = 0
) -> list[tuple[int, int]]:
    """The key (seed, index) of each image.

    A single seed gives image i the key (seed, first_index + i); a list gives each image the key
    (its seed, 0), so that image 0 of a seed can be made again alone or anywhere in a batch.
    """
    if isinstance(seed, int):
        return [(seed, first_index + index) for index in range(count)]
    return [(one, 0) for one in seed]


def generators(keys: Sequence[tuple[int, int]]) -> list[torch.Generator]:
    """One CPU generator per key (seed, index)."""
    result = []
    for key in keys:
        words = np.random.SeedSequence([part % 2**64 for part in key]).generate_state(1, np.uint64)
        # The top bit is dropped because manual_seed takes a signed number.
        result.append(torch.Generator().manual_seed(int(words[0]) >> 1))
    return result


def uniforms(sources: Sequence[torch.Generator], length: int) -> Tensor:
    """The numbers (B, length) in [0,1) that decide the tokens of each image, fp32 on the CPU."""
    return torch.stack([torch.rand(length, generator=source) for source in sources])


def gumbels(sources: Sequence[torch.Generator], length: int, vocab_size: int) -> Tensor:
    """Gumbel noise (B, length, V), fp32 on the CPU, for `soft_weights`."""
    noise = [torch.rand(length, vocab_size, generator=source) for source in sources]
    return -torch.stack(noise).clamp_(1e-20).log_().neg_().clamp_min_(1e-20).log_()
