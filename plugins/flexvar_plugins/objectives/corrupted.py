"""Cross-entropy under a context with mistakes in it, which the model learns to make good."""

from __future__ import annotations

import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor

from flexvar.components import Pairs, Rng, Tokenizer, uniform
from flexvar.errors import FlexvarError
from flexvar.layout import Layout
from flexvar.sequence import targets
from flexvar_plugins.objectives.cross_entropy import CrossEntropy, CrossEntropyConfig


class CorruptedConfig(CrossEntropyConfig):
    """Options of `Corrupted`.

    strength: greatest share of a scale's token parts that are replaced; the share is drawn anew,
    evenly from 0 to this, for each picture and scale. scales: only so many of the first scales;
    all unless given. requantize: the targets of later scales follow the mistakes, where the
    tokenizer's scales depend on the coarser ones.
    """

    strength: float = Field(default=0.3, ge=0, le=1)
    scales: int | None = Field(default=None, ge=1)
    requantize: bool = True


class Corrupted(CrossEntropy):
    """Tokens of the inputs are replaced at random, bit by bit where a token is made of bits.

    The context of generation has mistakes, that of teacher forcing has none. With a residual
    tokenizer the replaced tokens enter the sum, and what is left of the picture - the targets of
    the later scales - makes them good (Infinity's self-correction, arXiv 2412.04431, section
    3.4). Where every scale is the full picture, the targets are the true tokens anyway.
    """

    Config = CorruptedConfig

    def pairs(self, tokenizer: Tokenizer, latent_BChw: Tensor, layout: Layout, rng: Rng) -> Pairs:
        """Inputs of a corrupted context, and the targets that belong to it.

        Raises `FlexvarError` if targets are to follow and the tokenizer has no ``next_map``.
        """
        config = self.config
        source = torch.Generator().manual_seed(int(uniform(rng)() * 2**53))
        maps = list(tokenizer.quantize(latent_BChw, layout))
        follow = config.requantize and depend_on_context(tokenizer, maps, layout)
        if follow and not hasattr(tokenizer, "next_map"):
            raise FlexvarError(
                f"objective corrupted: the scales of {type(tokenizer).__name__} depend on the "
                "coarser ones, and it has no next_map to requantize against them; give it one, "
                "or set objective.requantize to false."
            )
        folded: Tensor | None = None
        inputs = [latent_BChw.new_zeros(len(latent_BChw), 0, tokenizer.space.code_dim)]
        for step, grid in enumerate(layout.grids[1:]):
            if step and follow:
                maps[step] = tokenizer.next_map(latent_BChw, folded, layout, step)  # type: ignore[attr-defined]
            shown = maps[step]
            if config.scales is None or step < config.scales:
                shown = replaced(shown, tokenizer.space.vocab_size, config.strength, source)
            folded = tokenizer.fold(folded, tokenizer.lookup(shown), layout, step)
            inputs.append(rearrange(tokenizer.resize(folded, grid), "B C h w -> B (h w) C"))
        if follow:
            maps[-1] = tokenizer.next_map(latent_BChw, folded, layout, len(layout) - 1)  # type: ignore[attr-defined]
        inputs_BLC = torch.cat(inputs, dim=1)
        return Pairs(inputs_BLC, targets(maps), self.weights(layout, inputs_BLC))


def replaced(tokens: Tensor, vocab_size: int, strength: float, source: torch.Generator) -> Tensor:
    """A map (B,h,w) or (B,h,w,G) with random parts replaced by other values.

    In each picture a share of the parts, drawn evenly from 0 to ``strength``; a bit is flipped.
    """
    shape = tokens.shape
    rate_B = torch.rand(shape[0], generator=source) * strength
    chosen = torch.rand(shape, generator=source) < rate_B.view(-1, *[1] * (len(shape) - 1))
    offset = torch.randint(1, max(2, vocab_size), shape, generator=source)
    other = (tokens + offset.to(tokens.device)) % vocab_size
    return torch.where(chosen.to(tokens.device), other, tokens)


def depend_on_context(tokenizer: Tokenizer, maps: list[Tensor], layout: Layout) -> bool:
    """Whether the latent after a scale depends on the coarser ones, as in VAR, not in FlexVAR."""
    if len(layout) < 2:
        return False
    before = tokenizer.fold(None, tokenizer.lookup(maps[0]), layout, 0)
    code = tokenizer.lookup(maps[1])
    one, other = (tokenizer.fold(x, code, layout, 1) for x in (before, before + 1))
    return not torch.equal(one, other)
