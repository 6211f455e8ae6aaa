"""What a generation needs, made on the host: conditions, numbers, known tokens -> tensors.

After this nothing of the loop depends on a value of a tensor, and nothing is copied from the
host but the noise of mean codes, which a caller may copy before (`Share.noise`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from flexvar.components import Conditioner, Sampler, Tokenizer
from flexvar.components import sampler as sampling
from flexvar.components.conditioner import each, rows
from flexvar.components.sampler import Filters
from flexvar.errors import FlexvarError
from flexvar.generation import seeds
from flexvar.generation.known import Known
from flexvar.layout import Layout
from flexvar.ops.precision import send


@dataclass(frozen=True, slots=True)
class Setup:
    """What is fixed of a generation before its first scale: with the sampler, the key of a graph.

    rows: images of one call. weights: of guidance, by step. guided: the steps, counted from the
    first, at which the unconditional half runs. paired: whether both halves are one call of the
    model, which they are where the unconditional one runs to the end. runs: whether the model is
    asked at a step at all; asked: whether its tokens are wanted, rather than its state alone.
    draws, rounds, candidates: see `flexvar.components.Sampler`. filters: by step, of tokens that
    one kernel may filter and draw (`flexvar.ops.fusion`); None for all others.
    """

    layout: Layout
    rows: int
    groups: int
    weights: tuple[float, ...]
    guided: int
    paired: bool
    runs: tuple[bool, ...]
    asked: tuple[bool, ...]
    draws: tuple[bool, ...]
    rounds: tuple[int, ...]
    candidates: tuple[int, ...]
    filters: tuple[Filters | None, ...]


@dataclass(frozen=True, slots=True)
class Share:
    """The images of one call of the model, as tensors on its device.

    inputs: of the condition, with those of no condition behind them where halves are paired. null:
    those of no condition where they are not. uniform: numbers (B,L), or (B,L,G). more: by step,
    numbers (N,B,h*w) or (N,B,h*w,G) of further rounds and candidates. codes_VC: all codes, and
    noise: Gumbel noise (B,h*w,V) of a step, to be asked for once, step by step - for mean codes.
    """

    setup: Setup
    inputs: Any
    null: Any | None
    uniform: Tensor
    more: tuple[Tensor | None, ...]
    known: Known | None
    codes_VC: Tensor | None
    noise: Callable[[int], Tensor] | None


def plan(
    conditioner: Conditioner,
    tokenizer: Tokenizer,
    inputs: Any,
    layout: Layout,
    sampler: Sampler,
    sources: Sequence[torch.Generator],
    *,
    null: Any | None = None,
    known: Known | None = None,
    images_per_call: int | None = None,
    fused: bool = False,
) -> list[Share]:
    """The shares of a generation; the arguments are those of `flexvar.generation.loop.generate`.

    Raises `FlexvarError` for a layout no model can predict, and for what does not fit it.
    """
    layout.check_for_model()
    groups, batch = tokenizer.space.groups, rows(inputs)
    first: Tensor = inputs[0] if isinstance(inputs, tuple) else inputs
    device = first.device
    if known is not None:
        known.check(layout, batch, groups)
    if len(sources) != batch:
        raise FlexvarError(f"{len(sources)} random sources for {batch} images; give one each.")
    mixes = sampling.mixes(sampler)
    if mixes and groups > 1:
        raise FlexvarError(
            f"This tokenizer's tokens have {groups} parts, and mean codes (soft) are made of "
            "tokens of one; leave them off."
        )
    share = images_per_call or (1 if device.type == "cpu" else batch)
    if share < 1:
        raise FlexvarError(f"images_per_call: got {images_per_call}; expected at least 1.")
    # Asked where the masks are: those of an edit are on the host still, and nothing is waited for.
    whole = known.whole() if known is not None else [[False] * len(layout)] * batch
    known = None if known is None else known.to(device)
    weights, guided = _guidance(sampler, layout)
    counts = [
        (sampling.rounds(sampler, layout, step), sampling.candidates(sampler, layout, step))
        for step in range(len(layout))
    ]
    uniform, more = _numbers(sources, layout, groups, counts)
    uniform = send(uniform, device)
    more = [None if one is None else send(one, device) for one in more]
    if guided and null is None:
        null = conditioner.null(inputs)
    if not guided:
        null = None
    codes_VC = _codes(tokenizer, device) if mixes else None
    shares = []
    for start in range(0, batch, share):
        part = slice(start, min(start + share, batch))
        asked = tuple(not all(image[step] for image in whole[part]) for step in range(len(layout)))
        setup = Setup(
            layout=layout,
            rows=part.stop - start,
            groups=groups,
            weights=weights,
            guided=guided,
            paired=guided == len(layout),
            runs=tuple(any(asked[step:]) for step in range(len(layout))),
            asked=asked,
            draws=tuple(sampling.draws(sampler, layout, step) for step in range(len(layout))),
            rounds=tuple(count for count, _ in counts),
            candidates=tuple(count for _, count in counts),
            filters=tuple(
                _filters(sampler, layout, step) if fused and not mixes else None
                for step in range(len(layout))
            ),
        )
        own = each(itemgetter(part), inputs)
        other = None if null is None else each(itemgetter(part), null)
        if setup.paired:
            own, other = each(_joined, own, other), None
        shares.append(
            Share(
                setup=setup,
                inputs=own,
                null=other,
                uniform=uniform[part],
                more=tuple(None if one is None else one[:, part] for one in more),
                known=None if known is None else known[part],
                codes_VC=codes_VC,
                noise=_noise(sources[part], codes_VC, layout) if codes_VC is not None else None,
            )
        )
    return shares


def _filters(sampler: Sampler, layout: Layout, step: int) -> Filters | None:
    """Those of a step whose tokens are drawn, once."""
    times = sampling.rounds(sampler, layout, step) * sampling.candidates(sampler, layout, step)
    if times > 1 or not sampling.draws(sampler, layout, step):
        return None
    return sampling.filters(sampler, layout, step)


def _guidance(sampler: Sampler, layout: Layout) -> tuple[tuple[float, ...], int]:
    """The weight of each step, and for how many steps the unconditional half has to run.

    It reads all earlier scales, so that it runs from the first on, until its last use.
    """
    weights = tuple(float(sampler.guidance(layout, step)) for step in range(len(layout)))
    used = [step + 1 for step, weight in enumerate(weights) if weight != 0]
    return weights, used[-1] if used else 0


def _numbers(
    sources: Sequence[torch.Generator],
    layout: Layout,
    groups: int,
    counts: Sequence[tuple[int, int]],
) -> tuple[Tensor, list[Tensor | None]]:
    """The numbers of all tokens, and those of further rounds and candidates by step.

    The first come first, so that a sampler that asks for more draws the same at its first try.
    """
    parts = () if groups == 1 else (groups,)
    uniform = seeds.uniforms(sources, layout.tokens, *parts)
    more: list[Tensor | None] = []
    for grid, (rounds, candidates) in zip(layout, counts, strict=True):
        extra = rounds * candidates - 1
        more.append(
            seeds.uniforms(sources, extra, grid.cells, *parts).transpose(0, 1) if extra else None
        )
    return uniform, more


def _noise(
    sources: Sequence[torch.Generator], codes_VC: Tensor, layout: Layout
) -> Callable[[int], Tensor]:
    """Noise made where it is used: of all scales at once it would be the largest thing there."""

    def of_step(step: int) -> Tensor:
        noise = seeds.gumbels(sources, layout[step].cells, codes_VC.shape[0])
        return send(noise, codes_VC.device)

    return of_step


def _joined(one: Tensor, other: Tensor) -> Tensor:
    return torch.cat([one, other])


def _codes(tokenizer: Tokenizer, device: torch.device) -> Tensor:
    """All codes (V,C), for mixtures of them."""
    index = torch.arange(tokenizer.space.vocab_size, device=device, dtype=torch.int64)
    return tokenizer.lookup(index[None, None])[0, :, 0].T
