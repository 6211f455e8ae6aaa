"""`flexvar show` and `flexvar train --options`: what there is to know and to choose."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from flexvar import FlexvarError
from flexvar.cli import application
from flexvar.data import DataConfig
from flexvar.option_help import meanings, options_of
from flexvar.training import ModelRecipe, TokenizerRecipe, load_recipe
from flexvar.training.recipe import OptimiserConfig, recipe_options


def test_show_says_what_a_model_is_and_what_its_pictures_depend_on() -> None:
    text = CliRunner().invoke(application(), ["show", "photos"]).output
    for part in ("multiscale: vocab_size 1024", "transformer: depth 6", "64x64 px", "trained on",
                 "Classes (16", "coffee", "default: guidance 1.0", "temperature"):  # fmt: skip
        assert part in text
    facts = json.loads(CliRunner().invoke(application(), ["show", "photos", "--json"]).output)
    assert facts["parts"]["backbone"]["width"] == 192
    assert facts["classes"] == len(facts["class_names"]) == 16
    assert {option["name"] for option in facts["options"]} >= {
        "guidance",
        "temperature",
        "top_k",
        "top_p",
    }
    assert facts["parameters"]["model"] > 3_000_000


def test_options_of_a_recipe_are_all_there_with_the_recipes_values_and_meaning() -> None:
    lines = list(recipe_options("small", "model", ["steps=77"]))
    text = "\n".join(lines)
    assert "steps = 77" in text
    assert "optimiser.learning_rate = 0.0015" in text
    assert "backbone.depth = 6" in text
    assert "backbone.qk_norm = true" in text
    assert "decay of the averaged weights" in text
    keys = {line.split(" ")[0] for line in lines if line and line[0] != " "}
    assert {name for name in ModelRecipe.model_fields if name not in ("data", "optimiser")} <= keys
    assert {f"data.{name}" for name in DataConfig.model_fields} <= keys
    assert {f"optimiser.{name}" for name in OptimiserConfig.model_fields} <= keys


@pytest.mark.parametrize("recipe", [TokenizerRecipe, ModelRecipe])
def test_nearly_every_option_says_what_it_means(recipe: type) -> None:
    silent = [option.key for option in options_of(recipe) if not option.meaning]
    # These stand for components, whose own options follow, or say it by their name.
    assert set(silent) <= {
        "tokenizer", "backbone", "position", "schedule", "conditioner", "objective",
        "losses.name", "losses.weight", "presets",
    }  # fmt: skip


def test_meanings_come_from_docstrings_and_their_tables() -> None:
    found = meanings(DataConfig)
    assert found["flip"].startswith("mirror every second sample")
    assert found["cache_mb"].startswith("MiB of resized pictures")
    assert "====" not in found["size"]


@pytest.mark.parametrize("stage", ["tokenizer", "model"])
def test_the_small_recipe_asks_for_its_pictures(stage: str) -> None:
    with pytest.raises(FlexvarError, match=r"say what to train on.*data=FOLDER.*photos"):
        load_recipe("small", stage, [])  # type: ignore[arg-type]
    assert load_recipe("small", stage, ["data=digits"]).data.size == 64  # type: ignore[arg-type]
