"""What a tokenizer and a model can do, in figures and in a picture."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from flexvar.images import sheets
from flexvar.layout import Layout
from flexvar.metrics.perplexity import code_counts, perplexity, usage
from flexvar.metrics.picture import SSIM_WINDOW, psnr, ssim
from flexvar.metrics.token_loss import scale_figures, token_losses
from flexvar.pipeline import Pipeline
from flexvar.sequence import decode_scales, targets, teacher_forcing
from flexvar.training.losses import resized


@torch.inference_mode()
def tokenizer_figures(
    pipe: Pipeline, batches: Iterable[Tensor], *, size: tuple[int, int] | None = None
) -> dict[str, float]:
    """PSNR in dB, SSIM, use of codes in [0,1] and perplexity, by ``figure/grid``.

    batches: pictures (B,3,H,W) in [-1,1], of the pipeline's size unless ``size`` is given,
    (height, width) in pixels. What is decoded after each scale
    is compared with the picture at that size. SSIM is left out below its window. The figures of
    the last grid stand under their bare names too. Of tokens of several parts, use and perplexity
    are the mean over the parts.
    """
    layout, space = pipe.layout(size, warn=False), pipe.tokenizer.space
    counts = [torch.zeros(space.groups, space.vocab_size, dtype=torch.int64) for _ in layout]
    sums: dict[str, float] = {}
    seen = 0
    for batch in batches:
        images = batch.to(pipe.device)
        seen += len(images)
        maps = pipe.tokenizer.encode(images, layout)
        for count_GV, tokens in zip(counts, maps, strict=True):
            count_GV += code_counts([tokens.cpu()], space.vocab_size, space.groups)
        pictures = decode_scales(pipe.tokenizer, maps, layout)
        for grid, picture in zip(layout, pictures, strict=True):
            target = resized(images, picture.shape[-2:])
            figures = {"psnr": psnr(picture, target)}
            if min(picture.shape[-2:]) >= SSIM_WINDOW:
                figures["ssim"] = ssim(picture.clamp(-1, 1), target)
            for name, value_B in figures.items():
                key = f"{name}/{grid}"
                sums[key] = sums.get(key, 0.0) + float(value_B.sum())
    result = {key: value / max(seen, 1) for key, value in sums.items()}
    for grid, count_GV in zip(layout, counts, strict=True):
        result[f"usage/{grid}"] = usage(count_GV)
        result[f"perplexity/{grid}"] = perplexity(count_GV)
    return result | {key: result[f"{key}/{layout.last}"] for key in ("psnr", "usage", "perplexity")}


@torch.inference_mode()
def model_figures(
    pipe: Pipeline, batches: Iterable[tuple[Tensor, Any, Layout]]
) -> dict[str, float]:
    """Cross-entropy in nats a token and accuracy in [0,1] of the true tokens, by ``figure/grid``.

    batches: pictures (B,3,H,W) in [-1,1], what the conditioner's ``collate`` gave for them, and the
    list of grids. All tokens' mean is ``loss`` and ``accuracy``, the last scale's ``last_loss`` and
    ``last_accuracy``. Each is the mean over the pictures that have it: those of another shape may
    have other grids.
    """
    sums: dict[str, float] = {}
    seen: dict[str, int] = {}
    for images_B3HW, condition, layout in batches:
        maps = pipe.tokenizer.encode(images_B3HW, layout)
        logits = pipe.model(condition, teacher_forcing(pipe.tokenizer, maps, layout), layout)
        losses_BL = token_losses(logits, targets(maps))
        figures = scale_figures(losses_BL, logits, targets(maps), layout)
        for key, value in ({"loss": losses_BL.mean()} | figures).items():
            sums[key] = sums.get(key, 0.0) + float(value) * len(images_B3HW)
            seen[key] = seen.get(key, 0) + len(images_B3HW)
    return {key: value / seen[key] for key, value in sums.items()}


@torch.inference_mode()
def reconstruction_table(pipe: Pipeline, images_B3HW: Tensor) -> Image.Image:
    """A row per picture in [-1,1]: itself, then what is decoded after every scale."""
    images = images_B3HW.to(pipe.device)
    size = [int(side) for side in images.shape[-2:]]
    layout = pipe.layout(warn=False)
    made = decode_scales(pipe.tokenizer, pipe.tokenizer.encode(images, layout), layout)
    columns = [images, *(F.interpolate(picture, size=size, mode="nearest") for picture in made)]
    return sheets.table(torch.stack(columns, dim=1))
