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
    images_per_call: int | None = None,
    on_scale: OnScale | None = None,
) -> Generated:
    """Token maps and latent of one image per label.

    labels_B: int64 class numbers, on the model's device; the null label is allowed. sources:
    one CPU generator per image, see `flexvar.sampling.generators`. images_per_call: how many
    images share one call of the model; all unless given, but 1 on a CPU, where matrix products
    round by their size: there an image is the same to the bit whatever its batch, at next to no
    cost in time. on_scale: called after each scale with the step, the latent (B,C,h,w) so far
    and the maps so far.
    Raises `FlexvarError` for a layout no model can predict.
    """
    layout.check_for_model()
    batch, device = labels_B.shape[0], labels_B.device
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

    maps: list[Tensor] = []
    latent_BChw: Tensor | None = None
    for step, (grid, part) in enumerate(zip(layout, layout.slices, strict=True)):
        inputs_BLC = None
        if latent_BChw is not None:
            resized = tokenizer.resize(latent_BChw, grid)
            inputs_BLC = rearrange(resized, "B C h w -> B (h w) C")
        parts = []
        for number, state in enumerate(states):
            x = None
            if inputs_BLC is not None:
                x = inputs_BLC[number * share : (number + 1) * share]
                x = torch.cat([x, x]) if guided else x
            logits = model.step(x, state)
            if guided:
                cond, uncond = logits.chunk(2)
                logits = sampling.guide(cond, uncond, weights[step])
            parts.append(logits)
        logits_BLV = torch.cat(parts) if len(parts) > 1 else parts[0]
        if settings.temperature != 1:
            logits_BLV = logits_BLV / settings.temperature
        if settings.draws(grid):
            logits_BLV = sampling.filter_logits(
                logits_BLV, top_k=settings.top_k, top_p=settings.top_p
            )
            tokens_BL = sampling.draw(logits_BLV, uniform_BL[:, part])
        else:
            tokens_BL = logits_BLV.argmax(dim=-1)
        maps.append(tokens_BL.unflatten(1, grid))
        if codes_VC is None:
            code_BChw = tokenizer.lookup(maps[-1])
        else:
            ratio = step / (len(layout) - 1) if len(layout) > 1 else 1.0
            noise = sampling.gumbels(sources, grid.cells, logits_BLV.shape[-1]).to(device)
            code_BLC = sampling.soft_weights(logits_BLV, noise, ratio) @ codes_VC
            code_BChw = rearrange(code_BLC, "B (h w) C -> B C h w", h=grid.h)
        latent_BChw = tokenizer.fold(latent_BChw, code_BChw, layout, step)
        if on_scale is not None:
            on_scale(step, latent_BChw, tuple(maps))
    assert latent_BChw is not None
    return Generated(tuple(maps), latent_BChw)


def _paired(cond_B: Tensor, null_B: Tensor, share: int) -> Tensor:
    """Labels in the order of the calls: each share of images, then its null labels."""
    return torch.cat(
        [torch.cat(pair) for pair in zip(cond_B.split(share), null_B.split(share), strict=True)]
    )


def _codes(tokenizer: Tokenizer, device: torch.device) -> Tensor:
    """All codes (V,C), for mixtures of them."""
    index = torch.arange(tokenizer.space.vocab_size, device=device)
    return rearrange(tokenizer.lookup(index[None, None]), "1 C 1 V -> V C")
