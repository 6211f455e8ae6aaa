"""The next-scale loop, the only one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from pydantic import Field
from torch import Tensor

from flexvar import sampling
from flexvar.config import ComponentConfig
from flexvar.errors import FlexvarError
from flexvar.layout import Grid, Layout
from flexvar.model import NextScaleModel
from flexvar.protocols import Tokenizer
from flexvar.sampling import GuidanceSchedule
from flexvar.sequence import check_maps

OnScale = Callable[[int, Tensor, tuple[Tensor, ...]], None]


class SamplingSettings(ComponentConfig):
    """How tokens are chosen.

    guidance: classifier-free guidance; 0 is off for the ramps, 1 for ``constant``.
    guidance_schedule: ``ramp``, ``ramp10`` or ``constant``, see
    `flexvar.sampling.guidance_weight`. temperature: divides the logits. top_k: likeliest tokens
    kept, 0 for all, 1 for the likeliest alone. top_p: of those, the nucleus; 1 for all. soft:
    mean codes instead of drawn ones (VAR's ``more_smooth``). draw_sides: sides of the grids
    whose tokens are drawn, all others take the likeliest (FlexVAR's released code); None
    draws everywhere.
    """

    guidance: float = Field(default=2.0, allow_inf_nan=False)
    guidance_schedule: GuidanceSchedule = "ramp"
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    top_k: int = Field(default=0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    soft: bool = False
    draw_sides: tuple[int, ...] | None = None

    def draws(self, grid: Grid) -> bool:
        """Whether the tokens of a grid are drawn, rather than the likeliest taken."""
        return self.top_k != 1 and (self.draw_sides is None or max(grid) in self.draw_sides)


@dataclass(frozen=True, slots=True)
class Known:
    """Tokens that are given: maps (B,h,w) int64 and keep (B,h,w) bool, one of each per grid.

    Where ``keep`` is true the token of ``maps`` is taken, elsewhere a token is drawn. A scale may
    be kept wholly. For one image per row of the batch.
    """

    maps: tuple[Tensor, ...]
    keep: tuple[Tensor, ...]

    def check(self, layout: Layout, batch: int) -> None:
        """Raise `FlexvarError` unless there is a map and a mask for each grid and image."""
        check_maps(self.maps, layout)
        shapes = [(tuple(k.shape), k.dtype) for k in self.keep]
        if shapes != [((batch, *grid), torch.bool) for grid in layout]:
            found = ", ".join(f"{shape} {dtype}" for shape, dtype in shapes)
            raise FlexvarError(
                f"keep: expected one bool mask ({batch}, rows, columns) per grid of the layout "
                f"{layout}, got {found}."
            )


@dataclass(frozen=True, slots=True)
class Generated:
    """maps: (B,h,w) int64 per grid. latent_BChw: what the tokenizer decodes."""

    maps: tuple[Tensor, ...]
    latent_BChw: Tensor


@torch.inference_mode()
def generate(
    model: NextScaleModel,
    tokenizer: Tokenizer,
    labels_B: Tensor,
    layout: Layout,
    settings: SamplingSettings,
    sources: Sequence[torch.Generator],
    *,
    known: Known | None = None,
    images_per_call: int | None = None,
    on_scale: OnScale | None = None,
) -> Generated:
    """Token maps and latent of one image per label.

    labels_B: int64 class numbers, on the model's device; the null label is allowed. sources:
    one CPU generator per image, see `flexvar.sampling.generators`. known: tokens that win over
    the drawn ones, at each scale before it is folded; the numbers drawn are the same with and
    without, so that with nothing to keep the images are too. images_per_call: how many
    images share one call of the model; all unless given, but 1 on a CPU, where matrix products
    round by their size: there an image is the same to the bit whatever its batch, at next to no
    cost in time. on_scale: called after each scale with the step, the latent (B,C,h,w) so far
    and the maps so far.
    Raises `FlexvarError` for a layout no model can predict.
    """
    layout.check_for_model()
    batch, device = labels_B.shape[0], labels_B.device
    if known is not None:
        known.check(layout, batch)
    if len(sources) != batch:
        raise FlexvarError(f"{len(sources)} random sources for {batch} images; give one each.")
    share = images_per_call or (1 if device.type == "cpu" else batch)
    weights = [
        sampling.guidance_weight(settings.guidance_schedule, settings.guidance, layout.grids, k)
        for k in range(len(layout))
    ]
    guided = any(weight != 0 for weight in weights)
    if guided:
        labels_B = _paired(labels_B, torch.full_like(labels_B, model.num_classes), share)
    rows = share * (2 if guided else 1)
    states = [model.start(part_B, layout) for part_B in labels_B.split(rows)]
    uniform_BL = sampling.uniforms(sources, layout.tokens).to(device)
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
                features_BLD = sampling.guide(cond, uncond, weights[step])
            parts.append(model.head(features_BLD))
        if asked:
            logits_BLV = torch.cat(parts) if len(parts) > 1 else parts[0]
            logits_BLV = _adjust(logits_BLV, settings, grid)
            if settings.draws(grid):
                tokens_BL = sampling.draw(logits_BLV, uniform_BL[:, part])
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
            noise = sampling.gumbels(sources, grid.cells, len(codes_VC)).to(device)
            # Where the likeliest token is taken there is nothing to mix.
            if asked and settings.draws(grid):
                soft_BLC = sampling.soft_weights(logits_BLV, noise, ratio) @ codes_VC
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
    return sampling.filter_logits(logits_BLV, top_k=settings.top_k, top_p=settings.top_p)


def _paired(cond_B: Tensor, null_B: Tensor, share: int) -> Tensor:
    """Labels in the order of the calls: each share of images, then its null labels."""
    return torch.cat(
        [torch.cat(pair) for pair in zip(cond_B.split(share), null_B.split(share), strict=True)]
    )


def _codes(tokenizer: Tokenizer, device: torch.device) -> Tensor:
    """All codes (V,C), for mixtures of them."""
    index = torch.arange(tokenizer.space.vocab_size, device=device)
    return rearrange(tokenizer.lookup(index[None, None]), "1 C 1 V -> V C")
