"""Tokens of 32 and 64 bits: trained, drawn, in-painted, scored, saved; no memory of 2^bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import allocated
from PIL import Image

from flexvar import Pipeline
from flexvar.build import build, component
from flexvar.components import Facts
from flexvar.config import ComponentSpec, parse
from flexvar.training import ModelRecipe, TokenizerRecipe, train

SMALL = {"channels": 8, "groups": 4, "channel_multipliers": [1, 1, 1], "blocks": 1,
         "latent_channels": 8}  # fmt: skip
LIST = {"name": "explicit", "grids": [1, 2, 4]}
COMMON: dict[str, Any] = {
    "data": {"source": "digits", "size": 16},
    "batch_size": 4,
    "steps": 3,
    "validation_images": 4,
    "tensorboard": False,
    "optimiser": {"learning_rate": 3e-3, "warmup": 0},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a model of 32 bits a token that has seen three batches."""
    folder = tmp_path_factory.mktemp("bits")
    stage_1 = {
        "tokenizer": {"name": "bsq", **SMALL, "code_dim": 32},
        "training_schedule": LIST,
        "auxiliary": {"entropy": 0.1},
    }
    stage_2 = {
        "tokenizer": str(folder / "tokenizer"),
        "backbone": {"name": "transformer", "depth": 1, "width": 32, "num_heads": 2},
        "schedule": LIST,
        "training_schedule": LIST,
        "objective": {"name": "corrupted", "strength": 0.2, "scale_power": 0.5},
    }
    for name, kind, options in (
        ("tokenizer", TokenizerRecipe, stage_1),
        ("model", ModelRecipe, stage_2),
    ):
        recipe: Any = parse(kind, {**COMMON, **options, "out": str(folder / name)})
        train(recipe, device="cpu", say=lambda line: None)
    return folder / "model"


def test_the_log_has_the_figures_of_bits(trained: Path) -> None:
    tokenizer_log = (trained.parent / "tokenizer" / "log.jsonl").read_text()
    for figure in ("entropy", "commitment", "usage", "perplexity"):
        assert f'"{figure}"' in tokenizer_log
    assert '"validation_loss"' in (trained / "log.jsonl").read_text()


def test_the_head_grows_with_the_bits_and_not_with_the_codes(trained: Path) -> None:
    pipe = Pipeline.from_pretrained(trained)
    assert pipe.tokenizer.space.groups == 32
    assert pipe.model.head.logits.weight.shape == (64, 32)
    assert any("tokens of 32 parts with 2 values each" in line for line in pipe.describe())


def test_it_draws_under_guidance_and_the_same_after_saving(trained: Path, tmp_path: Path) -> None:
    pipe = Pipeline.from_pretrained(trained)
    result = pipe([3, None], seed=1, guidance=2.0, top_p=0.9, progress=False)
    assert [tuple(tokens.shape) for tokens in result.maps] == [
        (2, 1, 1, 32), (2, 2, 2, 32), (2, 4, 4, 32),
    ]  # fmt: skip
    assert result.images[0].size == (16, 16)
    again = Pipeline.from_pretrained(pipe.save_pretrained(tmp_path / "copy"))
    same = again([3], seed=1, guidance=2.0, top_p=0.9, progress=False)
    for one, other in zip(result.maps, same.maps, strict=True):
        assert torch.equal(one[:1], other)


def test_it_paints_and_scores_pictures(trained: Path) -> None:
    pipe = Pipeline.from_pretrained(trained)
    picture = Image.new("RGB", (16, 16), (200, 30, 30))
    mask = Image.new("L", (16, 16))
    mask.paste(255, (8, 0, 16, 16))
    result = pipe.inpaint(picture, mask, label=2, seed=0)
    assert result.images[0].size == (16, 16)
    scores = pipe.score(picture, [0, 1])
    assert scores.nats_BNK.shape == (1, 2, 3)
    # 21 tokens of 32 bits each, near log 2 a bit in a model that has hardly learnt.
    assert -3 * 21 * 32 < float(scores.total_BN.mean()) < 0
    assert pipe.reconstruct(picture).size == (16, 16)


def wide(bits: int) -> dict[str, Any]:
    """A model whose bits are a small part of it, as in every real one."""
    return {
        "tokenizer": {**SMALL, "name": "bsq", "code_dim": bits, "channels": 32,
                      "latent_channels": bits},
        "backbone": {"name": "transformer", "depth": 3, "width": 192, "num_heads": 3},
        "position": "rope2d",
        "schedule": {"name": "explicit", "grids": [1, 2, 4, 8]},
    }  # fmt: skip


def training_step(bits: int) -> Callable[[], None]:
    """Both stages: a step of the tokenizer, and one of the model with flipped bits."""
    parts = build(wide(bits))
    model, tokenizer = parts.model, parts.tokenizer
    assert model is not None
    layout = parts.schedule.grids(parts.schedule.layout.last)
    objective = component(
        "objective", ComponentSpec(name="corrupted"), Facts(2, bits, 192, 64, 1, bits)
    )
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    weights = [*model.parameters(), *tokenizer.parameters()]
    optimiser = torch.optim.AdamW(weights, foreach=False)

    def step() -> None:
        seen = tokenizer(images, layout.grids)
        loss = (seen.reconstructions[0] - images).abs().mean() + sum(seen.losses.values())
        loss.backward()
        with torch.no_grad():
            latent = tokenizer.features(images)
            pairs = objective.pairs(tokenizer, latent, layout, torch.Generator().manual_seed(0))
        labels = model.conditioner.collate([0, None])
        logits = model(labels, pairs.inputs_BLC, layout)
        objective.loss(logits, pairs.targets).mean().backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def generation(bits: int) -> Callable[[], None]:
    pipe = Pipeline.from_config(wide(bits))

    def step() -> None:
        pipe([0, None], guidance=2.0, top_p=0.9, seed=0, output="tensor")

    return step


@pytest.mark.parametrize("made", [training_step, generation])
def test_64_bits_take_the_memory_of_16(made: Callable[[int], Callable[[], None]]) -> None:
    """2^64 of anything could not be there at all, and 2^16 numbers are 256 kB."""
    found = {bits: allocated(made(bits)) for bits in (14, 16, 64)}
    (fewer, _), (few, largest), (many, largest_of_many) = found.values()
    assert few == pytest.approx(fewer, rel=0.02)  # 2^16 is four times 2^14
    assert many == pytest.approx(few, rel=0.1)
    assert largest_of_many <= 1.1 * largest
