"""Keeping a codebook alive: data initialisation, use of codes, revival of unused ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import broadcast
from einops import rearrange
from torch import Tensor, nn

from flexvar.metrics.perplexity import code_counts, perplexity
from flexvar.training.recipe import CodebookConfig

# Lloyd's iterations; the codebook goes on learning afterwards.
ROUNDS = 10
CHUNK = 8192


class CodebookCare:
    """Watches how often codes are used over all processes, and puts unused ones back to work.

    use_V: each code's share of all tokens lately; it sums to 1.
    """

    def __init__(self, config: CodebookConfig, codes: nn.Parameter) -> None:
        self.config = config
        self.use_V = torch.full((len(codes),), 1 / len(codes), device=codes.device)

    @torch.no_grad()
    def initialise(self, codes: nn.Parameter, vectors_NC: Tensor, seed: int) -> None:
        """Write k-means centres (or random ones) of the vectors into the codebook.

        vectors_NC: of all processes, the same in each; rank 0 computes and the others are sent
        the result.
        """
        if self.config.initialise == "kmeans":
            fresh = kmeans(vectors_NC, len(codes), seed)
        else:
            fresh = _pick(vectors_NC, len(codes), torch.Generator().manual_seed(seed))
        codes.copy_(broadcast(fresh.to(codes)))

    @torch.no_grad()
    def observe(self, maps: Sequence[Tensor], accelerator: Accelerator) -> None:
        """Count the codes in the maps of one step, over all processes."""
        counts_V = code_counts(maps, len(self.use_V)).float()
        counts_V = accelerator.reduce(counts_V, reduction="sum")
        self.use_V.lerp_(counts_V / counts_V.sum(), 1 - self.config.memory)

    @torch.no_grad()
    def revive(
        self,
        codes: nn.Parameter,
        vectors_NC: Tensor,
        seed: int,
        optimiser: torch.optim.Optimizer,
        average: Tensor | None = None,
    ) -> int:
        """Put vectors of the data in place of unused codes; how many there were.

        A revived code starts as a fresh one: its optimiser moments are zero, its average is
        itself, and it counts as evenly used until the next look.
        """
        dead_V = self.use_V < self.config.revive_below / len(self.use_V)
        count = int(dead_V.sum())
        if count == 0:
            return 0
        fresh = _pick(vectors_NC, count, torch.Generator().manual_seed(seed))
        fresh = broadcast(fresh.to(codes))
        codes[dead_V] = fresh
        if average is not None:
            average[dead_V] = fresh
        for value in optimiser.state.get(codes, {}).values():
            if isinstance(value, Tensor) and value.shape == codes.shape:
                value[dead_V] = 0
        self.use_V[dead_V] = 1 / len(self.use_V)
        self.use_V /= self.use_V.sum()
        return count

    def usage(self) -> tuple[float, float]:
        """Share of codes in use, and perplexity: how many evenly used codes would be as rich."""
        alive = (self.use_V >= self.config.revive_below / len(self.use_V)).float().mean()
        return float(alive), perplexity(self.use_V)


def gathered(vectors: Sequence[Tensor], accelerator: Accelerator) -> Tensor:
    """The vectors (B,C,h,w) of all scales and processes as one (N,C), the same in each.

    In the order of the global batch, so that it does not depend on the number of processes.
    """
    parts = [rearrange(accelerator.gather(v), "B C h w -> (B h w) C") for v in vectors]
    return torch.cat(parts)


def kmeans(vectors_NC: Tensor, count: int, seed: int) -> Tensor:
    """``count`` centres (V,C) of the vectors; of unit length if the vectors are.

    An empty cluster starts again at a random vector. With fewer vectors than centres, some are
    copies with a little noise.
    """
    source = torch.Generator().manual_seed(seed)
    centres = _pick(vectors_NC, count, source)
    unit = bool((vectors_NC.norm(dim=1) - 1).abs().max() < 1e-3)
    if len(vectors_NC) <= count:
        return F.normalize(centres, dim=1) if unit else centres
    for _ in range(ROUNDS):
        nearest = torch.cat([torch.cdist(c, centres).argmin(1) for c in vectors_NC.split(CHUNK)])
        sums = torch.zeros_like(centres).index_add_(0, nearest, vectors_NC)
        sizes = torch.bincount(nearest, minlength=count)
        centres = sums / sizes.clamp_min(1)[:, None]
        empty = sizes == 0
        centres[empty] = _pick(vectors_NC, int(empty.sum()), source)
        if unit:
            centres = F.normalize(centres, dim=1)
    return centres


def _pick(vectors_NC: Tensor, count: int, source: torch.Generator) -> Tensor:
    """``count`` random vectors, each at most once as long as there are enough."""
    order = torch.randperm(len(vectors_NC), generator=source)
    repeats = -(-count // max(1, len(order)))
    index = order.repeat(repeats)[:count].to(vectors_NC.device)
    picked = vectors_NC[index].clone()
    if repeats > 1:
        noise = torch.randn(picked.shape, generator=source).to(picked)
        picked += 0.01 * vectors_NC.std() * noise
    return picked
