"""The zoo's tokenizers: what each of them is about, and that they learn. Their contract is kept in
test_contract.py, with everybody else's."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import flexvar
from flexvar import FlexvarError, Layout
from flexvar.build import build
from flexvar.sequence import fold_scales

SMALL = {"channels": 8, "groups": 4, "channel_multipliers": [1, 1, 1], "blocks": 1,
         "latent_channels": 8}  # fmt: skip
LAYOUT = Layout.of(1, 2, (3, 4))
ALL = [
    ("fsq", {"vocab_size": 5, "code_dim": 6}),
    ("bsq", {"code_dim": 32}),
    ("bsq", {"code_dim": 8, "patchify": 2, "channel_multipliers": [1, 1]}),
    ("product", {"vocab_size": 16, "code_dim": 8, "codebooks": 2}),
]


def make(name: str, **options: Any) -> Any:
    torch.manual_seed(0)
    return build({"tokenizer": {"name": name, **SMALL, **options}}).tokenizer.eval()


def image(part: Any, layout: Layout = LAYOUT, count: int = 2) -> Tensor:
    stride, last = part.space.stride, layout.last
    source = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, last.h * stride, last.w * stride, generator=source) * 2 - 1


@torch.no_grad()
def test_fsq_rounds_every_channel_to_its_levels() -> None:
    part = make("fsq", vocab_size=5, code_dim=3)
    assert part.space == flexvar.TokenSpace(5, 3, 4, groups=3)
    latent = torch.tensor([-9.0, 0.1, 0.4]).view(1, 3, 1, 1)
    (tokens,) = part.quantize(latent, Layout.of(1))
    # tanh: -1, 0.0997, 0.38; levels -1, -0.5, 0, 0.5, 1
    assert tokens.tolist() == [[[[0, 2, 3]]]]
    assert part.lookup(tokens).flatten().tolist() == [-1, 0, 0.5]


@torch.no_grad()
@pytest.mark.parametrize(("name", "options"), ALL[1:3])
def test_bsq_adds_up_signs_of_what_is_left(name: str, options: dict[str, Any]) -> None:
    part = make(name, **options)
    bits, fold = options["code_dim"], options.get("patchify", 1)
    assert (part.space.groups, part.space.vocab_size) == (bits * fold**2, 2)
    latent = part.features(image(part))
    maps = part.quantize(latent, LAYOUT)
    # By hand, with the network's own cells.
    rest = F.pixel_shuffle(latent, fold)
    for tokens, grid in zip(maps, LAYOUT, strict=True):
        size = grid.h * fold, grid.w * fold
        unit = F.normalize(F.interpolate(rest, size=size, mode="area"), dim=1)
        code = torch.where(unit > 0, 1.0, -1.0) / math.sqrt(bits)
        found = F.pixel_unshuffle(code, fold).movedim(1, -1) > 0
        assert torch.equal(tokens, found.long())
        rest = rest - F.interpolate(code, size=rest.shape[-2:], mode="bilinear")
    *_, total = fold_scales(part, maps, LAYOUT)
    torch.testing.assert_close(F.pixel_shuffle(latent - total, fold), rest, atol=1e-5, rtol=0)


@torch.no_grad()
def test_the_entropy_of_bits_is_least_where_they_are_sure_and_even() -> None:
    part = make("bsq", code_dim=4, sharpness=50.0)
    even = torch.cat([torch.ones(1, 4, 1, 1), -torch.ones(1, 4, 1, 1)])
    assert float(part.scale_losses(even)["entropy"]) == pytest.approx(-math.log(2), abs=1e-3)
    assert float(part.scale_losses(even.abs())["entropy"]) == pytest.approx(0, abs=1e-3)


@torch.no_grad()
def test_product_takes_the_nearest_code_of_each_share() -> None:
    part = make("product", vocab_size=16, code_dim=8, codebooks=2)
    tokens = torch.randint(16, (1, 2, 3, 2))
    code = part.lookup(tokens)
    assert code.shape == (1, 8, 2, 3)
    # Whatever the length of a share, its own code is the nearest.
    assert torch.equal(part.nearest(code * 3), tokens)
    with pytest.raises(FlexvarError, match="multiple of 3 codebooks"):
        make("product", code_dim=8, codebooks=3)


@pytest.mark.parametrize(("name", "options"), ALL)
def test_a_few_steps_learn_a_picture(name: str, options: dict[str, Any]) -> None:
    part = make(name, **options).train()
    target = image(part, Layout.of(1, 4), count=1)
    grids = Layout.of(1, 2, 4).grids
    optimiser = torch.optim.AdamW(part.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        output = part(target, grids)
        loss = F.mse_loss(output.reconstructions[-1], target)
        losses.append(loss.item())
        total = loss + 0.1 * sum(output.auxiliary.values())
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    assert losses[-1] < 0.9 * losses[0]
