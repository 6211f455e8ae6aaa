"""The next-scale loop, the only one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from flexvar.components import Tokenizer
from flexvar.components.conditioner import each
from flexvar.components.conditioner import rows as rows_of
from flexvar.errors import FlexvarError
from flexvar.generation import draw, seeds
from flexvar.generation.known import Known
from flexvar.generation.settings import SamplingSettings
from flexvar.layout import Grid, Layout
from flexvar.model import NextScaleModel

OnScale = Callable[[int, Tensor, tuple[Tensor, ...]], None]


@dataclass(frozen=True, slots=True)
class Generated:
    """maps: (B,h,w) int64 per grid. latent_BChw: what the tokenizer decodes."""

    maps: tuple[Tensor, ...]
    latent_BChw: Tensor


@torch.inference_mode()
def generate(
    model: NextScaleModel,
    tokenizer: Tokenizer,
    inputs: Any,
    layout: Layout,
    settings: SamplingSettings,
    sources: Sequence[torch.Generator],
    *,
    known: Known | None = None,
    images_per_call: int | None = None,
    on_scale: OnScale | None = None,
) -> Generated:
    """Token maps and latent of one image per row of the condition.

    inputs: what the model's conditioner collated, on the model's device. sources: one
    CPU generator per image, see `flexvar.generation.seeds.generators`. known: tokens that win
    over the drawn ones, at each scale before it is folded; the numbers drawn are the same with and
    without, so that with nothing to keep the images are too. images_per_call: how many
    images share one call of the model; all unless given, but 1 on a CPU, where matrix products
    round by their size: there an image is the same to the bit whatever its batch, at next to no
    cost in time. on_scale: called after each scale with the step, the latent (B,C,h,w) so far
    and the maps so far.
    Raises `FlexvarError` for a layout no model can predict.
    """
    layout.check_for_model()
    batch, device = rows_of(inputs), _device(inputs)
    if known is not None:
        known.check(layout, batch)
    if len(sources) != batch:
        raise FlexvarError(f"{len(sources)} random sources for {batch} images; give one each.")
    share = images_per_call or (1 if device.type == "cpu" else batch)
    weights = [
        draw.guidance_weight(settings.guidance_schedule, settings.guidance, layout.grids, k)
        for k in range(len(layout))
    ]
    guided = any(weight != 0 for weight in weights)
    if guided:
        inputs = each(partial(_paired, share=share), inputs, model.conditioner.null(inputs))
    rows = share * (2 if guided else 1)
    states = [
        model.start(each(itemgetter(slice(start, start + rows)), inputs), layout)
        for start in range(0, rows_of(inputs), rows)
    ]
    uniform_BL = seeds.uniforms(sources, layout.tokens).to(device)
    codes_VC = _codes(tokenizer, device) if settings.soft else None
    whole = [bool(keep_Bhw.all()) for keep_Bhw in known.keep] if known is not None else []

    maps: list[Tensor] = []
    latent_BChw: Tensor | None = None
    for step, (grid, part) in enumerate(zip(layout, layout.slices, strict=True)):
        inputs_BLC = None
        if latent_BChw is not None:
            resized = tokenizer.resize(latent_BChw, grid)
            inputs_BLC = rearrange(resized, "B C h w -> B (h w) C")
        # A scale that is wholly known is shown to the model, but asked nothing of.
        asked = known is None or not whole[step]
        parts = []
        for number, state in enumerate(states):
            x = None
            if inputs_BLC is not None:
                x = inputs_BLC[number * share : (number + 1) * share]
                x = torch.cat([x, x]) if guided else x
            features_BLD = model.features(x, state)
            if not asked:
                continue
            if guided:
                # Before the head, which is linear: one product of vocabulary size, not two.
                cond, uncond = features_BLD.chunk(2)
                features_BLD = draw.guide(cond, uncond, weights[step])
            parts.append(model.head(features_BLD))
        if asked:
            logits_BLV = torch.cat(parts) if len(parts) > 1 else parts[0]
            logits_BLV = _adjust(logits_BLV, settings, grid)
            if settings.draws(grid):
                tokens_BL = draw.draw(logits_BLV, uniform_BL[:, part])
            else:
                tokens_BL = logits_BLV.argmax(dim=-1)
            map_Bhw = tokens_BL.unflatten(1, grid)
            if known is not None:
                map_Bhw = torch.where(known.keep[step], known.maps[step], map_Bhw)
        else:
            assert known is not None
            map_Bhw = known.maps[step]
        maps.append(map_Bhw)
        code_BChw = tokenizer.lookup(map_Bhw)
        if codes_VC is not None:
            ratio = step / (len(layout) - 1) if len(layout) > 1 else 1.0
            # Drawn even if all is known, so that later scales find the same noise.
            noise = seeds.gumbels(sources, grid.cells, len(codes_VC)).to(device)
            # Where the likeliest token is taken there is nothing to mix.
            if asked and settings.draws(grid):
                soft_BLC = draw.soft_weights(logits_BLV, noise, ratio) @ codes_VC
                soft_BChw = rearrange(soft_BLC, "B (h w) C -> B C h w", h=grid.h)
                keep = None if known is None else known.keep[step][:, None]
                code_BChw = soft_BChw if keep is None else torch.where(keep, code_BChw, soft_BChw)
        latent_BChw = tokenizer.fold(latent_BChw, code_BChw, layout, step)
        if on_scale is not None:
            on_scale(step, latent_BChw, tuple(maps))
    assert latent_BChw is not None
    return Generated(tuple(maps), latent_BChw)


def _adjust(logits_BLV: Tensor, settings: SamplingSettings, grid: Grid) -> Tensor:
    """The logits that tokens of a grid are drawn from."""
    if settings.temperature != 1:
        logits_BLV = logits_BLV / settings.temperature
    if not settings.draws(grid):
        return logits_BLV
    return draw.filter_logits(logits_BLV, top_k=settings.top_k, top_p=settings.top_p)


def _paired(cond_B: Tensor, null_B: Tensor, share: int) -> Tensor:
    """Inputs in the order of the calls: each share of images, then its null inputs."""
    return torch.cat(
        [torch.cat(pair) for pair in zip(cond_B.split(share), null_B.split(share), strict=True)]
    )


def _device(inputs: Any) -> torch.device:
    first: Tensor = inputs[0] if isinstance(inputs, tuple) else inputs
    return first.device


def _codes(tokenizer: Tokenizer, device: torch.device) -> Tensor:
    """All codes (V,C), for mixtures of them."""
    index = torch.arange(tokenizer.space.vocab_size, device=device)
    return rearrange(tokenizer.lookup(index[None, None]), "1 C 1 V -> V C")
