"""The next-scale loop, the only one: tensors of one device alone.

`generate` plans on the host and runs the shares; `begin` and `advance` are the loop itself, which
`flexvar.generation.graphs` records for a `flexvar.generation.plan.Setup`: no value of a tensor is
read, no size depends on one, and nothing comes from the host but the noise of mean codes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from flexvar.components import Candidate, Predictor, Sampler, Tokenizer
from flexvar.generation import draw
from flexvar.generation.fork import fork
from flexvar.generation.known import Known
from flexvar.generation.plan import Share, plan
from flexvar.layout import Layout
from flexvar.model import NextScaleModel
from flexvar.ops.precision import exact_convolutions

OnScale = Callable[[int, Tensor, tuple[Tensor, ...]], None]


@dataclass(frozen=True, slots=True)
class Generated:
    """maps: (B,h,w) int64 per grid, or (B,h,w,G). latent_BChw: what the tokenizer decodes.

    images_B3HW: what it was decoded to, where that was asked for.
    """

    maps: tuple[Tensor, ...]
    latent_BChw: Tensor
    images_B3HW: Tensor | None = None


# What runs work over a share: itself, or a graph of it.
Engine = Callable[[Callable[[Share], Generated], Share], Generated]


@dataclass(slots=True)
class Progress:
    """Where the generation of a share stands: the model's states, the maps and the latent so far.

    null_state: of the unconditional half, where it is a call of its own.
    """

    state: Any
    null_state: Any | None = None
    maps: list[Tensor] = field(default_factory=list)
    latent_BChw: Tensor | None = None


@torch.inference_mode()
@exact_convolutions()
def generate(
    model: NextScaleModel,
    tokenizer: Tokenizer,
    inputs: Any,
    layout: Layout,
    sampler: Sampler,
    sources: Sequence[torch.Generator],
    *,
    predictor: Predictor | None = None,
    null: Any | None = None,
    known: Known | None = None,
    images_per_call: int | None = None,
    on_scale: OnScale | None = None,
    decode: Callable[[Tensor], Tensor] | None = None,
    engine: Engine | None = None,
    fused: bool = False,
) -> Generated:
    """Token maps and latent of one image per row of the condition.

    inputs: what the model's conditioner collated, on the model's device. sources: one
    CPU generator per image, see `flexvar.generation.seeds.generators`. predictor: what is asked in
    the model's place, such as what a sampler's ``wrap`` made. null: inputs that guidance leads
    away from; those of no condition unless given. known: tokens that win over
    the drawn ones, at each scale before it is folded; the numbers drawn are the same with and
    without, so that with nothing to keep the images are too. images_per_call: how many
    images share one call of the model, and of all that rounds by its size; all unless given, but 1
    on a CPU: there an image is the same to the bit whatever its batch, at next to no cost in
    time. on_scale: called after each scale with the step, the latent (B,C,h,w) so far
    and the maps so far; with it the states of all images are held at once, without it those of
    one call. decode: makes images of latents, a call of the model's at a time. engine: runs the
    work of a call, see `flexvar.generation.graphs`; not with ``on_scale``. fused: whether tokens
    are drawn by a kernel where one is taken (`flexvar.ops.fusion`).
    Raises `FlexvarError` for a layout no model can predict.
    """
    shares = plan(
        model.conditioner,
        tokenizer,
        inputs,
        layout,
        sampler,
        sources,
        null=null,
        known=known,
        images_per_call=images_per_call,
        fused=fused,
    )
    asked: Predictor = model if predictor is None else predictor
    if on_scale is None:

        def whole(share: Share) -> Generated:
            progress = begin(asked, share)
            for _ in layout:
                advance(asked, tokenizer, sampler, share, progress)
            # The states go before the decoder and the next share have theirs.
            progress.state = progress.null_state = None
            return _decoded(_so_far(progress), decode)

        return _together([whole(s) if engine is None else engine(whole, s) for s in shares])
    running = [begin(asked, share) for share in shares]
    for step in range(len(layout)):
        for share, progress in zip(shares, running, strict=True):
            advance(asked, tokenizer, sampler, share, progress)
        so_far = [_so_far(progress) for progress in running]
        together = _together(so_far)
        on_scale(step, together.latent_BChw, together.maps)
    return _together([_decoded(one, decode) for one in so_far])


def begin(model: Predictor, share: Share) -> Progress:
    """A share before its first scale."""
    layout = share.setup.layout
    state = model.start(share.inputs, layout)
    return Progress(state, None if share.null is None else model.start(share.null, layout))


def advance(
    model: Predictor, tokenizer: Tokenizer, sampler: Sampler, share: Share, progress: Progress
) -> None:
    """Generate the next scale of a share: ``progress`` moves on."""
    step, latent_BChw = len(progress.maps), progress.latent_BChw
    setup = share.setup
    grid = setup.layout[step]
    inputs_BLC = None
    if latent_BChw is not None and setup.runs[step]:
        inputs_BLC = _rows(tokenizer.resize(latent_BChw, grid))
    # Asked for even if all is known, so that later scales find the same noise.
    noise = share.noise(step) if share.noise is not None else None
    if not setup.asked[step]:
        # A scale that is wholly known is shown to the model, but asked nothing of.
        if setup.runs[step]:
            _features(model, inputs_BLC, share, progress, step, last=True)
        assert share.known is not None
        map_Bhw = share.known.maps[step]
        code_BChw = tokenizer.lookup(map_Bhw)
        progress.latent_BChw = tokenizer.fold(latent_BChw, code_BChw, setup.layout, step)
        progress.maps.append(map_Bhw)
        return
    if setup.rounds[step] > 1:
        logits, processed, tokens = _in_rounds(
            model, tokenizer, sampler, share, progress, inputs_BLC
        )
    else:
        features_BLD = _features(model, inputs_BLC, share, progress, step, last=True)
        logits = model.head(features_BLD)
        filters = setup.filters[step]
        if filters is not None and draw.fits(logits):
            tokens = draw.filtered(logits, share.uniform[:, setup.layout.slices[step]], filters)
            processed = logits  # asked for by nothing
        else:
            processed = sampler.process(logits, setup.layout, step, latent_BChw)
            tokens = _draw(processed, share, step, 0)
    best: tuple[Tensor, Tensor] | None = None
    best_score: Tensor | None = None
    for number in range(setup.candidates[step]):
        if number:
            tokens = _draw(processed, share, step, setup.rounds[step] - 1 + number)
        map_Bhw = _known_wins(tokens.unflatten(1, grid), share.known, step)
        code_BChw = tokenizer.lookup(map_Bhw)
        # Where the likeliest token is taken there is nothing to mix.
        if noise is not None and setup.draws[step]:
            code_BChw = _mean_codes(sampler, share, processed, noise, code_BChw, step)
        latent = tokenizer.fold(latent_BChw, code_BChw, setup.layout, step)
        if setup.candidates[step] == 1:
            best = map_Bhw, latent
            break
        flat = map_Bhw.flatten(1, 2)
        score_B = sampler.score(  # type: ignore[attr-defined]
            Candidate(flat, logits, latent, tokenizer, setup.layout, step)
        )
        if best is None or best_score is None:
            best, best_score = (map_Bhw, latent), score_B
            continue
        better_B = score_B > best_score
        best = _where(better_B, map_Bhw, best[0]), _where(better_B, latent, best[1])
        best_score = torch.where(better_B, score_B, best_score)
    assert best is not None
    progress.maps.append(best[0])
    progress.latent_BChw = best[1]


def _features(
    model: Predictor,
    inputs_BLC: Tensor | None,
    share: Share,
    progress: Progress,
    step: int,
    *,
    last: bool,
) -> Tensor:
    """Features (B,L,D) of a scale after guidance; the states move on if it is the last call."""
    setup = share.setup
    weight = setup.weights[step]
    state, null_state = progress.state, progress.null_state
    if not last:
        state, null_state = fork(state), fork(null_state)
    # Guidance comes before the head, which is linear: one product of vocabulary size, not two.
    if setup.paired:
        both = None if inputs_BLC is None else torch.cat([inputs_BLC, inputs_BLC])
        cond, uncond = model.features(both, state).chunk(2)
        return draw.guide(cond, uncond, weight) if weight != 0 else cond
    cond = model.features(inputs_BLC, state)
    # Where its logits are not wanted it still runs, for what later scales read of this one.
    if step < setup.guided:
        uncond = model.features(inputs_BLC, null_state)
        return draw.guide(cond, uncond, weight) if weight != 0 else cond
    return cond


def _draw(processed: Tensor, share: Share, step: int, number: int) -> Tensor:
    """Tokens (B,L) or (B,L,G); number: which of the step's numbers decide, 0 for the first."""
    setup = share.setup
    if not setup.draws[step]:
        return processed.argmax(dim=-1)
    if number == 0:
        return draw.draw(processed, share.uniform[:, setup.layout.slices[step]])
    more = share.more[step]
    assert more is not None
    return draw.draw(processed, more[number - 1])


def _in_rounds(
    model: Predictor,
    tokenizer: Tokenizer,
    sampler: Sampler,
    share: Share,
    progress: Progress,
    inputs_BLC: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, what `Sampler.process` made of them, and tokens of a scale that is asked for in
    several rounds: each sees the codes of the tokens that stayed in the one before.
    """
    setup, step, latent_BChw = share.setup, len(progress.maps), progress.latent_BChw
    layout, grid = setup.layout, setup.layout[step]
    kept_BL: Tensor | None = None
    tokens: Tensor | None = None
    if share.known is not None:
        kept_BL = share.known.keep[step].flatten(1)
        tokens = share.known.maps[step].flatten(1, 2)
    seen_BLC = inputs_BLC
    for number in range(setup.rounds[step]):
        last = number == setup.rounds[step] - 1
        features_BLD = _features(model, seen_BLC, share, progress, step, last=last)
        logits = model.head(features_BLD)
        processed = sampler.process(logits, layout, step, latent_BChw)
        drawn = _draw(processed, share, step, number)
        tokens = drawn if tokens is None or kept_BL is None else _where(kept_BL, tokens, drawn)
        if last:
            break
        stays_BL = sampler.keep(logits, tokens, layout, step, number)  # type: ignore[attr-defined]
        kept_BL = stays_BL if kept_BL is None else kept_BL | stays_BL
        if inputs_BLC is not None:
            code_BChw = tokenizer.lookup(tokens.unflatten(1, grid))
            latent = tokenizer.fold(latent_BChw, code_BChw, layout, step)
            seen_BLC = _where(kept_BL, _rows(tokenizer.resize(latent, grid)), inputs_BLC)
    assert tokens is not None
    return logits, processed, tokens


def _known_wins(map_Bhw: Tensor, known: Known | None, step: int) -> Tensor:
    return map_Bhw if known is None else _where(known.keep[step], known.maps[step], map_Bhw)


def _mean_codes(
    sampler: Sampler,
    share: Share,
    processed: Tensor,
    noise: Tensor,
    code_BChw: Tensor,
    step: int,
) -> Tensor:
    """Mean codes (B,C,h,w), and the codes given where a token is known."""
    layout, codes_VC = share.setup.layout, share.codes_VC
    assert codes_VC is not None
    weights_BLV = sampler.mixture(processed, noise, layout, step)  # type: ignore[attr-defined]
    soft_BChw = rearrange(weights_BLV @ codes_VC, "B (h w) C -> B C h w", h=layout[step].h)
    if share.known is None:
        return soft_BChw
    return torch.where(share.known.keep[step][:, None], code_BChw, soft_BChw)


def _where(condition: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """`torch.where` with a condition that lacks the last axes of both."""
    shape = condition.shape + (1,) * (one.ndim - condition.ndim)
    return torch.where(condition.view(shape), one, other)


def _rows(latent_BChw: Tensor) -> Tensor:
    return rearrange(latent_BChw, "B C h w -> B (h w) C")


def _so_far(progress: Progress) -> Generated:
    assert progress.latent_BChw is not None
    return Generated(tuple(progress.maps), progress.latent_BChw)


def _decoded(made: Generated, decode: Callable[[Tensor], Tensor] | None) -> Generated:
    return made if decode is None else replace(made, images_B3HW=decode(made.latent_BChw))


def _together(parts: Sequence[Generated]) -> Generated:
    """What was made of all shares, in order."""
    if len(parts) == 1:
        return parts[0]
    maps = tuple(torch.cat(of_scale) for of_scale in zip(*(p.maps for p in parts), strict=True))
    images = [part.images_B3HW for part in parts if part.images_B3HW is not None]
    latent_BChw = torch.cat([part.latent_BChw for part in parts])
    return Generated(maps, latent_BChw, torch.cat(images) if images else None)
