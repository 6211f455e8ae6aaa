"""Training on captions: the model tells words apart, and a run is the same through a cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flexvar import FlexvarError, Pipeline
from flexvar.config import parse
from flexvar.training import ModelRecipe, train
from flexvar.training.guard import Interrupted

from .conftest import model_options, quiet

pytest.importorskip("wordllama")
WORDS = {"name": "text", "width": 32, "num_heads": 2, "depth": 1, "max_tokens": 6}


def pictures(root: Path) -> dict[str, Any]:
    """Four pictures of one class, each with two captions of its own."""
    for split in ("train", "val"):
        (root / split / "all").mkdir(parents=True)
        for number, name in enumerate(("octopus", "apple", "castle", "rain")):
            noise = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(noise).save(root / split / "all" / f"{number}.png")
            (root / split / "all" / f"{number}.txt").write_text(f"{name}\na red {name}\n")
    return {"source": str(root), "size": 16, "resize": 1, "flip": False}


def options(tokenizer: Path, out: Path, data: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return model_options(
        tokenizer, out, data=data, ema=0, training_schedule="ladder", conditioner=WORDS,
        backbone={"name": "transformer", "depth": 2, "width": 64, "num_heads": 2}, **changes,
    )  # fmt: skip


def test_captions_are_learnt_and_tell_pictures_apart(
    tmp_path: Path, trained_tokenizer: Path
) -> None:
    recipe = options(
        trained_tokenizer, tmp_path / "run", pictures(tmp_path / "data"), steps=250,
        condition_dropout=0.1, sample_prompts=["octopus", "a red castle"], sample_every=250,
        optimiser={"learning_rate": 4e-3, "warmup": 0.05, "flat": 0.5, "weight_decay": 0.0},
    )  # fmt: skip
    figures = train(parse(ModelRecipe, recipe), device="cpu", say=quiet)
    assert figures["accuracy"] > 0.95
    pipe = Pipeline.from_pretrained(tmp_path / "run")
    assert pipe.config.model.conditioner.options["digest"]
    files = [tmp_path / "data" / "val" / "all" / f"{number}.png" for number in range(4)]
    words = ["octopus", "apple", "castle", "rain"]
    assert [pipe.classify(file, prompts=words) for file in files] == words
    # Words that stand beside no picture, near those that do.
    assert pipe.classify(files[2], prompts=["fortress", "fruit"]) == "fortress"


def test_samples_and_the_command_that_follows_take_the_captions(
    tmp_path: Path, trained_tokenizer: Path
) -> None:
    recipe = options(
        trained_tokenizer, tmp_path / "run", pictures(tmp_path / "data"), steps=1, sample_every=1
    )
    said: list[str] = []
    train(parse(ModelRecipe, recipe), device="cpu", say=said.append)
    assert said[-1].endswith("--prompt octopus")
    # A picture for each of the four captions, not one for the only class.
    grid = Image.open(next((tmp_path / "run").rglob("*.png")))
    assert grid.width > 3 * grid.height


def test_a_cache_keeps_captions(tmp_path: Path, trained_tokenizer: Path) -> None:
    data = pictures(tmp_path / "data")
    cache = {"directory": str(tmp_path / "cache"), "views": 1}
    recipe = options(trained_tokenizer, tmp_path / "run", data, steps=4, cache=cache)
    train(parse(ModelRecipe, recipe), device="cpu", say=quiet)
    kept = json.loads((tmp_path / "cache" / "captions.json").read_text())
    assert sorted(kept["texts"][kept["of"][0]]) == sorted(set(kept["texts"][kept["of"][0]]))
    assert {text for texts in kept["texts"] for text in texts} == {
        words
        for name in ("octopus", "apple", "castle", "rain")
        for words in (name, f"a red {name}")
    }
    (tmp_path / "cache" / "captions.json").unlink()
    recipe["out"] = str(tmp_path / "other")
    with pytest.raises(FlexvarError, match="were kept without captions"):
        train(parse(ModelRecipe, recipe), device="cpu", say=quiet)


def test_a_run_goes_on_as_if_it_had_not_stopped(tmp_path: Path, trained_tokenizer: Path) -> None:
    data = pictures(tmp_path / "data")
    whole = options(trained_tokenizer, tmp_path / "whole", data, steps=4)
    train(parse(ModelRecipe, whole), device="cpu", say=quiet)
    part = options(trained_tokenizer, tmp_path / "part", data, steps=4, stop_after=2)
    with pytest.raises(Interrupted):
        train(parse(ModelRecipe, part), device="cpu", say=quiet)
    del part["stop_after"]
    train(parse(ModelRecipe, part), device="cpu", say=quiet, resume=True)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "part")]
    assert weights[0] == weights[1]
