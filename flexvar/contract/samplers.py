"""What a sampler has to do, by itself and in a generation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from flexvar.checkpoint import CheckpointConfig
from flexvar.components import Facts, Sampler
from flexvar.components import sampler as sampling
from flexvar.contract.combination import Combination
from flexvar.contract.measure import (
    LAYOUTS,
    LEAK_TOLERANCE,
    demand,
    demand_members,
    equal_within,
    global_seed,
    unchanged,
)
from flexvar.contract.variant import Variant
from flexvar.generation.known import Known
from flexvar.generation.loop import generate
from flexvar.generation.seeds import generators
from flexvar.layout import Layout
from flexvar.pipeline import Pipeline

VOCAB = 12
SIZES = ((4, 4), (3, 5))


@dataclass(frozen=True, slots=True)
class Drawing:
    """A sampler, and the model whose tokens it chooses."""

    sampler: Variant
    model: Combination

    def __str__(self) -> str:
        return f"{self.sampler.label}+{self.model}"


def sampler_of(variant: Variant, groups: int = 1) -> Sampler:
    """The sampler."""
    found = variant.build(Facts(VOCAB, 8, 64, 32, 5, groups))
    demand_members(found, Sampler)
    return cast(Sampler, found)


def guidance_is_known_beforehand(variant: Variant) -> None:
    """The weight of every step is a finite number of Python, the same every time; so are the
    counts of rounds and candidates.
    """
    sampler = sampler_of(variant)
    for layout in LAYOUTS:
        for step in range(len(layout)):
            where = f"layout {layout}, step {step}"
            weight = sampler.guidance(layout, step)
            demand(
                isinstance(weight, int | float) and math.isfinite(weight),
                f"{where}: guidance gives {weight!r}, expected a finite number",
            )
            demand(weight == sampler.guidance(layout, step), f"{where}: guidance changes by itself")
            counts = (
                sampling.rounds(sampler, layout, step),
                sampling.candidates(sampler, layout, step),
            )
            demand(min(counts) >= 1, f"{where}: rounds and candidates are {counts}")


@torch.no_grad()
def process_keeps_rows_apart(variant: Variant) -> None:
    """Processed logits have the shape given, some token is left in each place, no row depends on
    another, and neither the logits given nor the sampler are changed.
    """
    for groups in (1, 3):
        sampler = sampler_of(variant, groups)
        for layout in LAYOUTS:
            for step, grid in enumerate(layout):
                where = f"layout {layout}, step {step}, {groups} part(s) a token"
                logits, latent = _logits(grid.cells, groups), _latent(layout, step)
                kept = logits.clone()
                with unchanged(sampler=sampler):
                    found = sampler.process(logits, layout, step, latent)
                demand(torch.equal(logits, kept), f"{where}: process changed the logits given")
                shapes = tuple(found.shape), tuple(logits.shape)
                demand(
                    shapes[0] == shapes[1], f"{where}: logits of shape {shapes[0]}, not {shapes[1]}"
                )
                demand(not bool(found.isnan().any()), f"{where}: logits are not a number")
                left = found.amax(dim=-1)
                demand(bool(left.isfinite().all()), f"{where}: no token is left in some place")
                alone = sampler.process(
                    logits[:1], layout, step, None if latent is None else latent[:1]
                )
                finite = [one.masked_fill(one == -math.inf, -1e4) for one in (alone, found[:1])]
                equal_within(
                    finite[0], finite[1], LEAK_TOLERANCE, f"{where}: logits of a row alone"
                )


@torch.no_grad()
def tokens_do_not_depend_on_the_batch(drawing: Drawing) -> None:
    """The same seed draws the same tokens, whatever else is in the batch; in a generation the
    sampler keeps nothing, and every token is one of the tokenizer's.
    """
    pipe = _pipeline(drawing)
    stride, vocab_size = pipe.tokenizer.space.stride, pipe.tokenizer.space.vocab_size
    for h, w in SIZES:
        call: dict[str, Any] = {"size": (h * stride, w * stride), "seed": 3, "progress": False}
        two = pipe([0, 1], **call)
        with global_seed(5):
            again = pipe([0, 1], **call)
        alone = pipe([0], **call)
        together = pipe([0, 1], images_per_call=2, **call)
        for step, maps in enumerate(two.maps):
            where = f"{h}x{w} cells, step {step}"
            low, high = int(maps.min()), int(maps.max())
            demand(low >= 0 and high < vocab_size, f"{where}: tokens from {low} to {high}")
            demand(torch.equal(maps, again.maps[step]), f"{where}: the same seed, other tokens")
            demand(
                torch.equal(maps[:1], alone.maps[step]),
                f"{where}: an image alone and in a batch has other tokens",
            )
            share = float((maps != together.maps[step]).float().mean())
            # Matrix products round by their size, which may tip a draw, not many.
            demand(share < 0.25, f"{where}: {share:.0%} of the tokens depend on the rows of a call")


@torch.no_grad()
def known_tokens_win(drawing: Drawing) -> None:
    """Tokens that are given stay as they are, at every scale, whatever is drawn beside them."""
    pipe = _pipeline(drawing)
    space, model = pipe.tokenizer.space, pipe.model
    sampler = drawing.sampler.build(model.facts)
    source = torch.Generator().manual_seed(0)
    layout = pipe.layout((4 * space.stride, 4 * space.stride), warn=False)
    parts = () if space.groups == 1 else (space.groups,)
    maps = tuple(
        torch.randint(space.vocab_size, (2, *grid, *parts), generator=source) for grid in layout
    )
    keep = tuple(torch.rand((2, *grid), generator=source) < 0.5 for grid in layout)
    found = generate(
        model,
        pipe.tokenizer,
        model.conditioner.collate([0, 1]),
        layout,
        sampler,
        generators([(0, 0), (0, 1)]),
        predictor=sampler.wrap({"model": model}) if hasattr(sampler, "wrap") else None,
        known=Known(maps, keep),
    )
    for step, (one, given, kept) in enumerate(zip(found.maps, maps, keep, strict=True)):
        demand(torch.equal(one[kept], given[kept]), f"step {step}: known tokens were not kept")


def _pipeline(drawing: Drawing) -> Pipeline:
    parts = drawing.model.build()
    config = CheckpointConfig(model=drawing.model.config)
    return Pipeline(parts, config, drawing.sampler.spec, registry=drawing.model.registry)


def _logits(cells: int, groups: int) -> Tensor:
    source = torch.Generator().manual_seed(0)
    shape = (2, cells, VOCAB) if groups == 1 else (2, cells, groups, VOCAB)
    return torch.randn(shape, generator=source) * 3


def _latent(layout: Layout, step: int) -> Tensor | None:
    source = torch.Generator().manual_seed(1)
    return torch.randn((2, 8, *layout[step - 1]), generator=source) if step else None
