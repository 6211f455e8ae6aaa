"""Compares flexvar's kernels with torch's own steps where numbers and strides are unusual.

Run by test_kernels.py as a process of its own with TRITON_INTERPRET=1.
"""

from __future__ import annotations

import torch

from flexvar.generation import draw
from flexvar.ops import fusion, groups, heads

CPU = torch.device("cpu")


def agree(one: fusion.Fusion, *given: object) -> None:
    ours, plain = (
        fusion.results(one, way, given, CPU, torch.float32) for way in (one.fused, one.plain)
    )
    for what, expected in plain.items():
        torch.testing.assert_close(ours[what], expected, atol=1e-4, rtol=0)


def tokens_stay_in_the_vocabulary() -> None:
    logits = torch.randn(1, 5, 50, generator=torch.Generator().manual_seed(0))
    logits[0, 0], logits[0, 1], logits[0, 2, 7] = torch.nan, -torch.inf, torch.nan
    logits[0, 3, 49] = torch.inf
    for uniform in (0.0, 0.5, 1 - 2**-24):
        for top_k, top_p in ((0, 1.0), (7, 1.0), (0, 0.9), (7, 0.9)):
            numbers = torch.full((1, 5), uniform)
            (tokens,) = draw.DRAW.fused(logits, numbers, top_k, top_p, 0.7)
            assert ((tokens >= 0) & (tokens < 50)).all(), (top_k, top_p, tokens)
            assert tokens[0, :2].tolist() == [49, 49]
            (expected,) = draw.DRAW.plain(logits[:, 4:], numbers[:, 4:], top_k, top_p, 0.7)
            assert torch.equal(tokens[:, 4:], expected), (top_k, top_p, uniform)


def moments_of_few_channels_count_once() -> None:
    """In two launches, of two parts; against fp64, for torch's own is off by more in fp32."""
    source = torch.Generator().manual_seed(0)
    for channels, count in ((1, 1), (2, 2), (3, 1)):
        x, weight, bias, *rest = groups._case(source, 1, channels, 50, 47, count)
        found = groups._norm_silu(x, weight, bias, *rest, 0)
        (expected,) = groups._plain(x.double(), weight.double(), bias.double(), *rest)
        torch.testing.assert_close(found, expected.float(), atol=2e-5, rtol=0)


def heads_of_any_strides() -> None:
    source = torch.Generator().manual_seed(0)
    qkv, scale, cosine, sine, *cache = heads._case(source, 2, 5, 3, 20, 6)
    scale = torch.stack([scale, scale + 1], 1)[:, 0]
    across = sine.transpose(0, 2).contiguous().transpose(0, 2)
    assert scale.stride(0) == 2
    assert across.stride(-1) != 1
    agree(heads.HEADS, qkv, scale, cosine, across, *cache)
    turned = cosine.transpose(0, 2).contiguous().transpose(0, 2)
    agree(heads.HEADS, qkv, scale, turned, across, *cache)


if __name__ == "__main__":
    for check in (
        tokens_stay_in_the_vocabulary,
        moments_of_few_channels_count_once,
        heads_of_any_strides,
    ):
        check()
        print(check.__name__)
