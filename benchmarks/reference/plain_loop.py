"""The plain loop: generation written the way research code of this field is.

Concatenated caches, AdaLN computed at every step, a sort of the whole vocabulary, the decoder
in NCHW, fp32 weights that autocast casts at every call. It reads a pipeline's own weights, so
that its pictures are the same; it is the yardstick of every speed-up.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flexvar import Layout, Pipeline
from flexvar.generation.draw import draw, guidance_weight


@dataclass
class Spent:
    """Seconds by part of the work."""

    backbone: float = 0.0
    sampling: float = 0.0
    decoder: float = 0.0
    starts: list[float] = field(default_factory=list)

    def lap(self, part: str) -> None:
        """Book the time since the last lap on a part."""
        now = time.perf_counter()
        setattr(self, part, getattr(self, part) + now - self.starts[-1])
        self.starts.append(now)

    def begin(self) -> None:
        """Start the clock."""
        self.starts.append(time.perf_counter())


def filter_by_sorting(logits_BLV: Tensor, top_k: int, top_p: float) -> Tensor:
    """Top-k by its threshold, then top-p by sorting all of the vocabulary."""
    logits_BLV = logits_BLV.clone()
    if top_k > 0:
        least = logits_BLV.topk(min(top_k, logits_BLV.shape[-1]), dim=-1).values[..., -1:]
        logits_BLV[logits_BLV < least] = -torch.inf
    if top_p < 1:
        ascending, order = logits_BLV.sort(dim=-1)
        drop = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
        drop[..., -1:] = False
        logits_BLV.masked_fill_(drop.scatter(-1, order, drop), -torch.inf)
    return logits_BLV


@torch.no_grad()
def generate_plainly(
    pipe: Pipeline,
    labels: Sequence[int],
    layout: Layout,
    *,
    guidance: float,
    top_k: int,
    top_p: float,
    uniform_BL: Tensor,
    autocast: torch.dtype | None = None,
) -> tuple[Tensor, list[Tensor], Spent]:
    """Images (B,3,H,W) in [0,1], token maps, and the time by part.

    pipe: a FlexVAR pipeline (tokenizer multiscale, backbone transformer) in fp32, contiguous.
    """
    model: Any = pipe.model
    tokenizer: Any = pipe.tokenizer
    device = uniform_BL.device
    labels_B = torch.tensor(list(labels), device=device)
    batch = len(labels_B)
    context = torch.autocast(device.type, autocast) if autocast else nullcontext()
    spent = Spent()
    with context:
        spent.begin()
        null_B = torch.full_like(labels_B, model.num_classes)
        cond_BD = model.conditioner(torch.cat([labels_B, null_B])).pooled_BD
        position_LD = model.position(layout).add_LD
        x = cond_BD[:, None] + model.start_embedding + position_LD[:1]
        cache: list[tuple[Tensor, Tensor] | None] = [None] * len(model.backbone.blocks)
        maps = []
        for step, (grid, part) in enumerate(zip(layout, layout.slices, strict=True)):
            for number, block in enumerate(model.backbone.blocks):
                x, cache[number] = _block(block, x, cond_BD, cache[number])
            scale, shift = (
                model.head.modulation(F.silu(cond_BD)).view(2 * batch, 1, 2, -1).unbind(2)
            )
            x = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift
            logits = _linear(model.head.logits, x)
            spent.lap("backbone")
            weight = guidance_weight("ramp10", guidance, layout.grids, step)
            logits = (1 + weight) * logits[:batch] - weight * logits[batch:]
            logits = filter_by_sorting(logits, top_k, top_p)
            tokens = draw(logits.float(), uniform_BL[:, part])
            maps.append(tokens.view(batch, *grid))
            code = tokenizer.lookup(maps[-1])
            spent.lap("sampling")
            if step + 1 < len(layout):
                following = layout[step + 1]
                resized = F.interpolate(code, size=tuple(following), mode="bicubic")
                x = model.token_embedding(resized.flatten(2).transpose(1, 2))
                x = (x + position_LD[layout.slices[step + 1]]).repeat(2, 1, 1)
                spent.lap("backbone")
        image = _decode(tokenizer.decoder, tokenizer.from_code(code))
        image = image.float().add(1).div(2).clamp(0, 1)
        spent.lap("decoder")
    return image, maps, spent


def _decode(decoder: Any, x: Tensor) -> Tensor:
    x = decoder.conv_in(x)
    for part in (*decoder.middle, *(part for level in decoder.levels for part in level)):
        if hasattr(part, "conv1"):
            h = part.conv1(_swish(part.norm1(x)))
            x = part.shortcut(x) + part.conv2(_swish(part.norm2(h)))
        elif hasattr(part, "qkv"):
            q, k, v = part.qkv(part.norm(x)).flatten(2).chunk(3, dim=1)
            weights = torch.bmm(q.transpose(1, 2), k) * q.shape[1] ** -0.5
            h = torch.bmm(v, weights.softmax(dim=2).transpose(1, 2))
            x = x + part.out(h.unflatten(2, x.shape[-2:]))
        else:
            x = part(x)
    return decoder.conv_out(_swish(decoder.norm_out(x)))


def _swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def _block(
    block: Any, x: Tensor, cond_BD: Tensor, cached: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    rows, width = x.shape[0], x.shape[-1]
    values = block.modulation(F.silu(cond_BD)).view(rows, 1, 6, width)
    gate1, gate2, scale1, scale2, shift1, shift2 = values.unbind(2)
    attention = block.attention
    h = F.layer_norm(x, (width,), eps=1e-6) * (scale1 + 1) + shift1
    bias = torch.cat([attention.q_bias, torch.zeros_like(attention.q_bias), attention.v_bias])
    qkv = F.linear(h, attention.qkv.weight, bias).view(
        rows, -1, 3, attention.heads, width // attention.heads
    )
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    scale = attention.log_scale.clamp_max(4.605170185988092).exp().view(1, -1, 1, 1)
    q = F.normalize(q, dim=-1) * scale
    k = F.normalize(k, dim=-1)
    if cached is not None:
        k, v = torch.cat([cached[0], k], dim=2), torch.cat([cached[1], v], dim=2)
    q, k = q.to(v.dtype), k.to(v.dtype)
    h = F.scaled_dot_product_attention(q, k, v, scale=1.0).transpose(1, 2).reshape(rows, -1, width)
    x = x + _linear(attention.out, h) * gate1
    h = F.layer_norm(x, (width,), eps=1e-6) * (scale2 + 1) + shift2
    h = _linear(block.mlp_out, F.gelu(_linear(block.mlp_in, h), approximate="tanh"))
    return x + h * gate2, (k, v)


def _linear(layer: Any, x: Tensor) -> Tensor:
    return F.linear(x, layer.weight, layer.bias)
