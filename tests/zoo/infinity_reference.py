"""Infinity as its paper and code describe it, plainly, on files in the released layout.

Nothing of flexvar is used, no state is kept and no shape is assumed: B rows, tokens of all scales
at once under a mask, every head by its formula. Random files of any shape come with it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
Grids = list[tuple[int, int]]


@dataclass(frozen=True)
class Shape:
    """What a model is; grids are of tokens, whose pixels are ``stride`` times ``patch`` a side."""

    bits: int
    grids: str
    reference: tuple[int, int]
    patch: int = 1
    width: int = 64
    heads: int = 2
    depth: int = 2
    chunks: int = 1
    every_chunk: bool = False
    text: int = 128
    longest: int = 12
    widths: tuple[int, ...] = (32, 64)
    blocks: int = 1

    @property
    def scales(self) -> Grids:
        pairs = (one.split("x") for one in self.grids.split())
        return [(int(pair[0]), int(pair[-1])) for pair in pairs]

    @property
    def size(self) -> tuple[int, int]:
        stride = 2 ** (len(self.widths) - 1) * self.patch
        return self.scales[-1][0] * stride, self.scales[-1][1] * stride


def random_files(shape: Shape, seed: int = 0) -> tuple[State, State]:
    """A tokenizer and a transformer under the released files' names."""
    source = torch.Generator().manual_seed(seed)

    def draw(*size: int, std: float, mean: float = 0.0) -> Tensor:
        return torch.randn(size, generator=source) * std + mean

    vae: State = {}

    def conv(name: str, out: int, into: int, kernel: int = 3) -> None:
        vae[f"{name}.weight"] = draw(out, into, kernel, kernel, std=1 / math.sqrt(into * kernel**2))
        vae[f"{name}.bias"] = draw(out, std=0.1)

    def norm(name: str, width: int) -> None:
        vae[f"{name}.weight"], vae[f"{name}.bias"] = (
            draw(width, std=0.1, mean=1),
            draw(width, std=0.1),
        )

    def residual(name: str, into: int, out: int) -> None:
        norm(f"{name}.norm1.norm", into)
        conv(f"{name}.conv1.conv", out, into)
        norm(f"{name}.norm2.norm", out)
        conv(f"{name}.conv2.conv", out, out)
        if into != out:
            conv(f"{name}.nin_shortcut.conv", out, into, 1)

    widths, levels = shape.widths, len(shape.widths)
    for side, order in (("encoder", range(levels)), ("decoder", range(levels)[::-1])):
        enters = side == "encoder"
        now = widths[0] if enters else widths[-1]
        conv(f"{side}.conv_in.conv", now, 3 if enters else shape.bits)
        for level in order:
            part = "down" if enters else "up"
            for block in range(shape.blocks + (not enters)):
                residual(f"{side}.{part}.{level}.block.{block}", now, widths[level])
                now = widths[level]
            if level != order[-1]:
                conv(f"{side}.{part}.{level}.{part}sample.conv.conv", now, now)
        for number in (1, 2):
            residual(f"{side}.mid.block_{number}", widths[-1], widths[-1])
        norm(f"{side}.norm_out.norm", now)
        conv(f"{side}.conv_out.conv", shape.bits if enters else 3, now)
    vae["quantize.lfq.mask"] = 2 ** torch.arange(shape.bits % 60)

    width, text, tokens = shape.width, shape.text, shape.bits * shape.patch**2
    model: State = {}

    def linear(name: str, out: int, into: int, *, bias: bool = True) -> None:
        model[f"{name}.weight"] = draw(out, into, std=1 / math.sqrt(into))
        if bias:
            model[f"{name}.bias"] = draw(out, std=0.1)

    pool = text // 64
    for name, out, into in (
        ("word_embed", width, tokens),
        ("head_nm.ada_lin.1", 2 * width, width),
        ("head", 2 * tokens, width),
        ("shared_ada_lin.1", 6 * width, width),
        ("text_proj_for_ca.0", width, text),
        ("text_proj_for_ca.2", width, width),
        ("text_proj_for_sos.ca.proj", width, width),
    ):
        linear(name, out, into)
    linear("text_proj_for_sos.ca.mat_kv", 2 * width, text, bias=False)
    model["text_proj_for_sos.ca.mat_q"] = draw(1, pool, width // pool, std=1)
    model["text_proj_for_sos.ca.v_bias"] = draw(width, std=0.1)
    model["text_proj_for_sos.ca.zero_k_bias"] = torch.zeros(width)
    model["text_norm.weight"] = draw(text, std=0.1, mean=1)
    model["cfg_uncond"] = draw(shape.longest, text, std=1)
    model["pos_start"] = draw(1, 1, width, std=1)
    model["lvl_embed.weight"] = draw(15, width, std=0.5)
    for number in range(shape.depth):
        share = shape.depth // shape.chunks
        name = f"block_chunks.{number // share}.module.{number % share}"
        model[f"{name}.ada_gss"] = draw(1, 1, 6, width, std=0.3)
        linear(f"{name}.sa.mat_qkv", 3 * width, width, bias=False)
        model[f"{name}.sa.scale_mul_1H11"] = draw(1, shape.heads, 1, 1, std=0.3, mean=math.log(4))
        linear(f"{name}.sa.proj", width, width)
        linear(f"{name}.ca.mat_q", width, width)
        linear(f"{name}.ca.mat_kv", 2 * width, width, bias=False)
        linear(f"{name}.ca.proj", width, width)
        for bias in ("sa.q_bias", "sa.v_bias", "ca.v_bias", "ca_norm.bias"):
            model[f"{name}.{bias}"] = draw(width, std=0.1)
        model[f"{name}.ca_norm.weight"] = draw(width, std=0.1, mean=1)
        inner = round(4 * width / 256) * 256
        linear(f"{name}.ffn.fc1", inner, width)
        linear(f"{name}.ffn.fc2", width, inner)
    return vae, model


def residual_block(s: State, name: str, x: Tensor) -> Tensor:
    h = conv(s, f"{name}.conv1", F.silu(group_norm(s, f"{name}.norm1", x)))
    h = conv(s, f"{name}.conv2", F.silu(group_norm(s, f"{name}.norm2", h)))
    if f"{name}.nin_shortcut.conv.weight" in s:
        x = conv(s, f"{name}.nin_shortcut", x)
    return x + h


def conv(s: State, name: str, x: Tensor, stride: int = 1) -> Tensor:
    weight = s[f"{name}.conv.weight"]
    x = F.pad(x, (0, 1, 0, 1)) if stride == 2 else x
    padding = 0 if stride == 2 else weight.shape[-1] // 2
    return F.conv2d(x, weight, s[f"{name}.conv.bias"], stride, padding)


def group_norm(s: State, name: str, x: Tensor) -> Tensor:
    return F.group_norm(x, 32, s[f"{name}.norm.weight"], s[f"{name}.norm.bias"], eps=1e-6)


def encode(s: State, shape: Shape, image: Tensor) -> Tensor:
    x = conv(s, "encoder.conv_in", image)
    for level in range(len(shape.widths)):
        for block in range(shape.blocks):
            x = residual_block(s, f"encoder.down.{level}.block.{block}", x)
        if level < len(shape.widths) - 1:
            x = conv(s, f"encoder.down.{level}.downsample.conv", x, stride=2)
    x = residual_block(s, "encoder.mid.block_2", residual_block(s, "encoder.mid.block_1", x))
    return conv(s, "encoder.conv_out", F.silu(group_norm(s, "encoder.norm_out", x)))


def decode(s: State, shape: Shape, latent: Tensor) -> Tensor:
    x = conv(s, "decoder.conv_in", latent)
    x = residual_block(s, "decoder.mid.block_2", residual_block(s, "decoder.mid.block_1", x))
    for level in reversed(range(len(shape.widths))):
        for block in range(shape.blocks + 1):
            x = residual_block(s, f"decoder.up.{level}.block.{block}", x)
        if level:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = conv(s, f"decoder.up.{level}.upsample.conv", x)
    return conv(s, "decoder.conv_out", F.silu(group_norm(s, "decoder.norm_out", x)))


def bits_of(shape: Shape, features: Tensor) -> list[Tensor]:
    """Bits (B,d,h,w) of every scale, of the tokenizer's grids."""
    rest, found = features, []
    for grid in own_grids(shape):
        part = rest if grid == rest.shape[-2:] else F.interpolate(rest, grid, mode="area")
        unit = F.normalize(part, dim=1)
        found.append((unit > 0).float())
        code = (found[-1] * 2 - 1) / math.sqrt(shape.bits)
        rest = rest - F.interpolate(code, rest.shape[-2:], mode="bilinear")
    return found


def sums(shape: Shape, bits: list[Tensor]) -> list[Tensor]:
    """The sum (B,d,h,w) after every scale, at the last grid."""
    last, total, found = own_grids(shape)[-1], torch.zeros(()), []
    for one in bits:
        code = (one * 2 - 1) / math.sqrt(shape.bits)
        total = total + F.interpolate(code, last, mode="bilinear")
        found.append(total)
    return found


def own_grids(shape: Shape) -> Grids:
    return [(h * shape.patch, w * shape.patch) for h, w in shape.scales]


def inputs_of(shape: Shape, bits: list[Tensor]) -> Tensor:
    """What the transformer sees of all scales but the first: (B,L-1,bits of a token)."""
    pairs = zip(sums(shape, bits), own_grids(shape)[1:], strict=False)
    parts = [F.interpolate(total, grid, mode="bilinear") for total, grid in pairs]
    return torch.cat([F.pixel_unshuffle(x, shape.patch).flatten(2).mT for x in parts], dim=1)


def angles(shape: Shape) -> Tensor:
    """(L, head width / 2): the first half of them by rows, the second by columns."""
    quarter = shape.width // shape.heads // 4
    frequency = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    height, width = shape.reference
    rows = []
    for h, w in shape.scales:
        for i in range(h):
            for j in range(w):
                # round() takes halves to the even number.
                y, x = round(i * height / h), round(j * width / w)
                rows.append(torch.cat([y * frequency, x * frequency]))
    return torch.stack(rows).float()


def turned(x: Tensor, angle: Tensor) -> Tensor:
    """x (B,H,L,d), neighbouring channels turned as one complex number."""
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle)).flatten(-2)


def heads_of(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def null_of(s: State, text: Tensor) -> Tensor:
    return s["cfg_uncond"][: text.shape[1]].expand_as(text)


def logits_of(
    s: State,
    shape: Shape,
    text: Tensor,
    inputs: Tensor,
    *,
    guided: int | None = None,
    cfg: float = 1.0,
) -> Tensor:
    """Logits (B,L,bits of a token,2); guided: after which block rows 0 and 1 become one."""
    length = sum(h * w for h, w in shape.scales)
    scale_of = torch.cat([torch.full((h * w,), k) for k, (h, w) in enumerate(shape.scales)])
    blocked = scale_of[:, None] < scale_of[None]

    def lin(name: str, x: Tensor) -> Tensor:
        return F.linear(x, s[f"{name}.weight"], s.get(f"{name}.bias"))

    def norm(x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], eps=1e-6)

    x = text * (text.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt() * s["text_norm.weight"]
    pool = "text_proj_for_sos.ca"
    query = s[f"{pool}.mat_q"][0]
    k, v = lin(f"{pool}.mat_kv", x).chunk(2, dim=-1)
    k, v = heads_of(k, len(query)), heads_of(v + s[f"{pool}.v_bias"], len(query))
    look = ((query[:, None] * k).sum(-1) / math.sqrt(query.shape[1])).softmax(-1)
    pooled = lin(f"{pool}.proj", (look[..., None] * v).sum(2).flatten(1))
    words = lin("text_proj_for_ca.2", F.gelu(lin("text_proj_for_ca.0", x), approximate="tanh"))

    x = torch.cat([pooled[:, None] + s["pos_start"], lin("word_embed", inputs)], dim=1)
    assert x.shape[1] == length
    level = s["lvl_embed.weight"][scale_of]
    shared = lin("shared_ada_lin.1", F.silu(pooled)).unflatten(-1, (6, -1))[:, :, None]
    angle, heads, share = angles(shape), shape.heads, shape.depth // shape.chunks
    for number in range(shape.depth):
        name = f"block_chunks.{number // share}.module.{number % share}"
        if number == 0 or (shape.every_chunk and number % share == 0):
            x = x + level
        ada = shared + s[f"{name}.ada_gss"][0, 0][None, :, None]
        gate1, gate2, scale1, scale2, shift1, shift2 = ada.unbind(1)
        q, k, v = lin(f"{name}.sa.mat_qkv", norm(x) * (1 + scale1) + shift1).chunk(3, dim=-1)
        q, k, v = (
            heads_of(one, heads)
            for one in (q + s[f"{name}.sa.q_bias"], k, v + s[f"{name}.sa.v_bias"])
        )
        grow = s[f"{name}.sa.scale_mul_1H11"].clamp(max=math.log(100)).exp()
        q, k = turned(F.normalize(q, dim=-1) * grow, angle), turned(F.normalize(k, dim=-1), angle)
        scores = (q @ k.mT).masked_fill(blocked, -math.inf)
        x = x + gate1 * lin(f"{name}.sa.proj", (scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        h = norm(x) * s[f"{name}.ca_norm.weight"] + s[f"{name}.ca_norm.bias"]
        q = heads_of(lin(f"{name}.ca.mat_q", h), heads)
        k, v = lin(f"{name}.ca.mat_kv", words).chunk(2, dim=-1)
        k, v = heads_of(k, heads), heads_of(v + s[f"{name}.ca.v_bias"], heads)
        mixed = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1) @ v
        x = x + lin(f"{name}.ca.proj", mixed.transpose(1, 2).flatten(2))
        h = F.gelu(lin(f"{name}.ffn.fc1", norm(x) * (1 + scale2) + shift2), approximate="tanh")
        x = x + gate2 * lin(f"{name}.ffn.fc2", h)
        if guided is not None and number == guided % shape.depth:
            x = (cfg * x[:1] + (1 - cfg) * x[1:]).expand(2, -1, -1)
    scale, shift = lin("head_nm.ada_lin.1", F.silu(pooled))[:, None].chunk(2, dim=-1)
    return lin("head", norm(x) * (1 + scale) + shift).unflatten(-1, (-1, 2))


def names_of(model: State) -> set[str]:
    """Names of a transformer without the numbers of blocks, for a look at whether all are there."""
    return {re.sub(r"block_chunks\.\d+\.module\.\d+", "block", name) for name in model}
