"""Keeping a codebook alive: data initialisation, use of codes, revival of unused ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.utils import broadcast
from einops import rearrange
from torch import Tensor, nn

from flexvar.components import TokenSpace
from flexvar.metrics.perplexity import code_counts, perplexity, usage
from flexvar.training.recipe import CodebookConfig

# Lloyd's iterations; the codebook goes on learning afterwards.
ROUNDS = 10
CHUNK = 8192


class CodebookCare:
    """Watches how often codes are used over all processes, and puts unused ones back to work.

    A codebook is (V,C), or (G,V,C/G): one for each part of a token, over its share of the
    channels. use_GV: each code's share of all tokens of its part lately; each row sums to 1, and a
    revived code has an even share until it is looked at again. lately_GV: the same of the last
    grid's tokens, as they are, for the log.
    """

    def __init__(self, config: CodebookConfig, space: TokenSpace) -> None:
        self.config = config
        self.use_GV = torch.full((space.groups, space.vocab_size), 1 / space.vocab_size)
        self.lately_GV = torch.zeros_like(self.use_GV)

    @torch.no_grad()
    def initialise(self, codes: nn.Parameter, vectors_NC: Tensor, seed: int) -> None:
        """Write k-means centres (or random ones) of the vectors into the codebook.

        vectors_NC: of all processes, the same in each; rank 0 computes and the others are sent
        the result.
        """
        books_GVC = by_part(codes)
        parts = vectors_NC.chunk(len(books_GVC), dim=1)
        for number, (book_VC, part_NC) in enumerate(zip(books_GVC, parts, strict=True)):
            if self.config.initialise == "kmeans":
                fresh = kmeans(part_NC, len(book_VC), seed + number)
            else:
                source = torch.Generator().manual_seed(seed + number)
                fresh = _pick(part_NC, len(book_VC), source)
            book_VC.copy_(broadcast(fresh.to(book_VC)))

    @torch.no_grad()
    def observe(
        self, maps: Sequence[Tensor], accelerator: Accelerator, last: Sequence[Tensor] | None = None
    ) -> None:
        """Count the codes in the maps of one step, over all processes.

        last: those of them that are of the last grid; all unless given.
        """
        self.use_GV.lerp_(self._share(maps, accelerator), 1 - self.config.memory)
        share_GV = self._share(maps if last is None else last, accelerator)
        self.lately_GV.lerp_(share_GV, 1 - self.config.memory)

    def _share(self, maps: Sequence[Tensor], accelerator: Accelerator) -> Tensor:
        groups, vocab_size = self.use_GV.shape
        counts_GV = code_counts(maps, vocab_size, groups).view(groups, vocab_size).float()
        counts_GV = accelerator.reduce(counts_GV, reduction="sum")
        return counts_GV / counts_GV.sum(dim=1, keepdim=True)

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
        books_GVC, revived = by_part(codes), 0
        moments = [
            by_part(value)
            for value in optimiser.state.get(codes, {}).values()
            if isinstance(value, Tensor) and value.shape == codes.shape
        ]
        parts = vectors_NC.chunk(len(books_GVC), dim=1)
        for number, (use_V, part_NC) in enumerate(zip(self.use_GV, parts, strict=True)):
            dead_V = use_V < self.config.revive_below / len(use_V)
            count = int(dead_V.sum())
            if count == 0:
                continue
            fresh = _pick(part_NC, count, torch.Generator().manual_seed(seed + number))
            fresh = broadcast(fresh.to(codes))
            books_GVC[number, dead_V] = fresh
            if average is not None:
                by_part(average)[number, dead_V] = fresh
            for moment_GVC in moments:
                moment_GVC[number, dead_V] = 0
            use_V[dead_V] = 1 / len(use_V)
            use_V /= use_V.sum()
            revived += count
        return revived

    def usage(self) -> tuple[float, float]:
        """Share of codes in use, and perplexity: how many evenly used codes would be as rich.

        Of the last grid's tokens lately, as validation has it of its pictures.
        """
        return usage(self.lately_GV), perplexity(self.lately_GV)


def by_part(codes: Tensor) -> Tensor:
    """A codebook, or what goes with it, as one of every part: (V,C) -> (1,V,C), a view."""
    return codes if codes.ndim == 3 else codes[None]


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
