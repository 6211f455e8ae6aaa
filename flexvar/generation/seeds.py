"""Random numbers: one generator per image, keyed by its seed and index."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

# Said each time: what an application makes torch's default changes no number.
_HOST = torch.device("cpu")


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
        result.append(torch.Generator(_HOST).manual_seed(int(words[0]) >> 1))
    return result


def uniforms(sources: Sequence[torch.Generator], *shape: int) -> Tensor:
    """The numbers (B, *shape) in [0,1) that decide the tokens of each image, fp32 on the CPU."""
    return torch.stack([_rand(shape, source) for source in sources])


def gumbels(sources: Sequence[torch.Generator], length: int, vocab_size: int) -> Tensor:
    """Gumbel noise (B, length, V), fp32 on the CPU, for `flexvar.generation.draw.soft_weights`."""
    noise = [_rand((length, vocab_size), source) for source in sources]
    return -torch.stack(noise).clamp_(1e-20).log_().neg_().clamp_min_(1e-20).log_()


def _rand(shape: Sequence[int], source: torch.Generator) -> Tensor:
    return torch.rand(tuple(shape), generator=source, dtype=torch.float32, device=_HOST)
