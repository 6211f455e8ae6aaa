"""Infinity's tokens, with and without patchify: bits exact, floats within 1e-4."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import GOLDEN
from safetensors.torch import load_file
from torch import Tensor

from flexvar import Layout
from flexvar.build import build
from flexvar.sequence import fold_scales, split, targets, teacher_forcing

CASES = [
    ("infinity", 16, 1, Layout.of(1, 2, 4, 6, 8, 12, 16)),
    ("infinity_patchify", 14, 2,
     Layout.of(1, 2, (4, 2), (6, 3), (10, 5), (16, 8), (22, 11))),
]  # fmt: skip


def tokenizer(bits: int, patchify: int) -> Any:
    network = {"channels": 8, "groups": 4, "channel_multipliers": [1], "blocks": 1,
               "latent_channels": 8}  # fmt: skip
    options = {"name": "bsq", "code_dim": bits, "patchify": patchify, **network}
    return build({"tokenizer": options}).tokenizer.eval()


@pytest.mark.parametrize(("name", "bits", "patchify", "layout"), CASES)
@torch.no_grad()
def test_bits_and_inputs_are_infinitys(name: str, bits: int, patchify: int, layout: Layout) -> None:
    golden = load_file(GOLDEN / "infinity_tokens.safetensors")
    part = tokenizer(bits, patchify)
    latent_BChw = F.pixel_unshuffle(golden[f"{name}.features"], patchify)
    maps = part.quantize(latent_BChw, layout)
    assert torch.equal(targets(maps), golden[f"{name}.train.bits"].long())
    inputs_BLC = teacher_forcing(part, maps, layout)
    torch.testing.assert_close(inputs_BLC, golden[f"{name}.train.input"], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("name", "bits", "patchify", "layout"), CASES)
@torch.no_grad()
def test_a_samples_latent_is_infinitys(name: str, bits: int, patchify: int, layout: Layout) -> None:
    golden = load_file(GOLDEN / "infinity_tokens.safetensors")
    # Stored at the tokenizer's own grids, which are finer where tokens are patches.
    own = Layout.of(*((grid.h * patchify, grid.w * patchify) for grid in layout))
    maps = split(golden[f"{name}.sample.none.bits"].long(), own)

    def folded(bits_BhwG: Tensor) -> Tensor:
        cells = bits_BhwG.movedim(-1, 1).float()
        return F.pixel_unshuffle(cells, patchify).movedim(1, -1).long()

    *_, latent = fold_scales(tokenizer(bits, patchify), [folded(one) for one in maps], layout)
    found = F.pixel_shuffle(latent, patchify)
    torch.testing.assert_close(found, golden[f"{name}.sample.none.latent"], atol=1e-4, rtol=0)
