"""The codebook in training: gradients straight through, data initialisation, revival."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from flexvar import Grid
from flexvar.build import build
from flexvar.components import TokenSpace, TrainableTokenizer
from flexvar.metrics.perplexity import code_counts, perplexity, usage
from flexvar.training.codebook import CodebookCare, kmeans
from flexvar.training.recipe import CodebookConfig

from .conftest import CNN

GRIDS = (Grid(1, 1), Grid(2, 3), Grid(4, 6))


def tokenizer(name: str) -> Any:
    torch.manual_seed(0)
    return build({"tokenizer": {"name": name, **CNN}}).tokenizer


@pytest.mark.parametrize(("name", "pictures"), [("multiscale", 3), ("residual", 1)])
def test_a_training_pass(name: str, pictures: int) -> None:
    part = tokenizer(name)
    assert isinstance(part, TrainableTokenizer)
    image = torch.rand(2, 3, 16, 24) * 2 - 1
    output = part(image, GRIDS)
    assert len(output.reconstructions) == pictures
    assert output.reconstructions[-1].shape == image.shape
    assert [map_Bhw.shape for map_Bhw in output.maps] == [(2, *grid) for grid in GRIDS]
    assert all(v.shape == (2, 4, *g) for v, g in zip(output.vectors, GRIDS, strict=True))
    assert not any(vector.requires_grad for vector in output.vectors)


@pytest.mark.parametrize("name", ["multiscale", "residual"])
def test_gradients_pass_straight_through(name: str) -> None:
    part = tokenizer(name)
    output = part(torch.rand(1, 3, 16, 16), [Grid(2, 2), Grid(4, 4)])
    output.reconstructions[-1].square().mean().backward()
    weight = part.encoder.conv_in.weight
    assert weight.grad is not None
    assert bool(weight.grad.any())
    # The picture alone moves no code; the codebook loss does.
    assert part.codes.grad is None or not bool(part.codes.grad.any())
    part.zero_grad()
    part(torch.rand(1, 3, 16, 16), [Grid(4, 4)]).codebook_loss.backward()
    assert bool(part.codes.grad.any())
    assert part.encoder.conv_in.weight.grad is None or not bool(weight.grad.any())


def test_the_gradient_is_that_of_the_chosen_code() -> None:
    book = tokenizer("multiscale").codebook
    vectors = torch.randn(1, 4, 2, 2, requires_grad=True)
    chosen = book.straight_through(vectors)
    torch.testing.assert_close(chosen.code, book(chosen.index))
    unit = torch.nn.functional.normalize(vectors, dim=1)
    (by_code,) = torch.autograd.grad(chosen.code[:, 0].sum(), vectors)
    (by_unit,) = torch.autograd.grad(unit[:, 0].sum(), vectors)
    torch.testing.assert_close(by_code, by_unit)


@pytest.mark.parametrize("name", ["multiscale", "residual"])
def test_without_quantize_the_latent_passes(name: str) -> None:
    part = tokenizer(name)
    image = torch.rand(1, 3, 16, 16)
    output = part(image, [Grid(4, 4)], quantize=False)
    latent = part.features(image)
    if name == "multiscale":
        latent = torch.nn.functional.normalize(latent, dim=1)
    torch.testing.assert_close(output.reconstructions[-1], part.decode(latent))
    assert not bool(output.codebook_loss.any())
    assert not bool(output.commitment_loss.any())


def test_kmeans_finds_clusters() -> None:
    centres = torch.tensor([[0.0, 5.0], [5.0, 0.0], [-5.0, -5.0]])
    torch.manual_seed(0)
    points = centres.repeat(40, 1) + 0.1 * torch.randn(120, 2)
    found = kmeans(points, 3, seed=4)
    assert float(torch.cdist(centres, found).min(dim=1).values.max()) < 0.2
    assert kmeans(points[:2], 5, seed=0).shape == (5, 2)
    unit = torch.nn.functional.normalize(points, dim=1)
    torch.testing.assert_close(kmeans(unit, 3, seed=0).norm(dim=1), torch.ones(3))


def test_dead_codes_are_revived() -> None:
    config = CodebookConfig(memory=0.5, revive_below=0.1)
    codes = nn.Parameter(torch.zeros(4, 2))
    optimiser = torch.optim.AdamW([codes], lr=0.1)
    codes.grad = torch.ones_like(codes)
    optimiser.step()
    care, accelerator = CodebookCare(config, TokenSpace(4, 2, 1)), Accelerator(cpu=True)
    for _ in range(8):
        care.observe([torch.tensor([[[0, 1]]])], accelerator)
    before, average = codes.detach().clone(), torch.zeros(4, 2)
    vectors = torch.tensor([[7.0, 7.0], [8.0, 8.0], [9.0, 9.0]])
    assert care.revive(codes, vectors, 0, optimiser, average) == 2
    assert torch.equal(codes[:2], before[:2])
    assert all(any(torch.equal(code, vector) for vector in vectors) for code in codes[2:])
    assert torch.equal(average[2:], codes[2:])
    assert not bool(optimiser.state[codes]["exp_avg"][2:].any())
    assert bool(optimiser.state[codes]["exp_avg"][:2].all())
    assert care.revive(codes, vectors, 0, optimiser) == 0
    assert float(care.use_GV.sum()) == pytest.approx(1)


def test_usage_and_perplexity() -> None:
    counts = code_counts([torch.tensor([[[0, 0]]]), torch.tensor([[[1, 1]]])], 4)
    assert counts.tolist() == [2, 2, 0, 0]
    assert perplexity(counts) == pytest.approx(2)


def test_a_revived_code_is_in_use_only_when_a_token_takes_it() -> None:
    care = CodebookCare(CodebookConfig(memory=0.5), TokenSpace(4, 2, 1))
    codes = nn.Parameter(torch.randn(4, 2))
    for _ in range(9):
        care.observe([torch.tensor([[[0, 1]]])], Accelerator(cpu=True))
    optimiser = torch.optim.AdamW([codes])
    assert care.revive(codes, torch.randn(8, 2), 0, optimiser) == 2
    # As validation counts the same tokens.
    assert care.usage()[0] == usage(torch.tensor([9, 9, 0, 0])) == 0.5


def test_parts_are_counted_each_for_itself() -> None:
    tokens = torch.tensor([[[[0, 0], [1, 0], [2, 0], [3, 0]]]])
    counts = code_counts([tokens], 4, groups=2)
    assert counts.tolist() == [[1, 1, 1, 1], [4, 0, 0, 0]]
    assert perplexity(counts) == pytest.approx((4 + 1) / 2)
    care = CodebookCare(CodebookConfig(memory=0.0), TokenSpace(4, 4, 1, groups=2))
    care.observe([tokens], Accelerator(cpu=True))
    assert care.usage() == (pytest.approx(5 / 8), pytest.approx(2.5))


def test_codebooks_of_several_parts_learn_each_from_its_channels() -> None:
    config = CodebookConfig(memory=0.0)
    codes = nn.Parameter(torch.zeros(2, 3, 2))
    care = CodebookCare(config, TokenSpace(3, 4, 1, groups=2))
    vectors = torch.cat([torch.ones(9, 2), 5 * torch.ones(9, 2)], dim=1)
    vectors += 0.01 * torch.randn(9, 4)
    care.initialise(codes, vectors, seed=0)
    torch.testing.assert_close(codes[0], torch.ones(3, 2), atol=0.1, rtol=0)
    torch.testing.assert_close(codes[1], 5 * torch.ones(3, 2), atol=0.1, rtol=0)
    before = codes.detach().clone()
    care.observe([torch.tensor([[[[0, 1], [1, 1], [2, 1]]]])], Accelerator(cpu=True))
    optimiser = torch.optim.AdamW([codes])
    assert care.revive(codes, vectors + 1, 0, optimiser) == 2
    assert torch.equal(codes[0], before[0])
    assert torch.equal(codes[1, 1], before[1, 1])
    torch.testing.assert_close(codes[1, [0, 2]], 6 * torch.ones(2, 2), atol=0.1, rtol=0)
