"""The loop: it learns, forecasts, skips what is not finite, stops when asked, and complains."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from flexvar import FlexvarError, Pipeline
from flexvar.config import parse
from flexvar.layout import Layout
from flexvar.training import ModelRecipe, TokenizerRecipe, load_recipe, train
from flexvar.training.model_stage import ModelStage
from flexvar.training.recipe import recipe_names

from .conftest import model_options, quiet, tokenizer_options


def log(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]


def test_a_tokenizer_learns(tmp_path: Path, tokenizer_recipe: Any) -> None:
    recipe = tokenizer_recipe(tmp_path, steps=40, batch_size=8, log_every=10, sample_every=40)
    figures = train(recipe, device="cpu", say=quiet)
    losses = [line["loss"] for line in log(tmp_path) if line["kind"] == "train"]
    assert losses[-1] < 0.8 * losses[0]
    assert {"psnr", "usage", "perplexity", "psnr/4x4", "usage/1x1"} <= figures.keys()
    assert (tmp_path / "samples" / "step-00000040.png").is_file()
    pipe = Pipeline.from_pretrained(tmp_path)
    assert pipe.reconstruct(torch.zeros(1, 3, 16, 16), output="tensor").shape == (1, 3, 16, 16)
    assert pipe.size == (16, 16)


def test_a_residual_tokenizer_learns(tmp_path: Path) -> None:
    options = tokenizer_options(tmp_path, steps=12, log_every=4)
    options["tokenizer"] = options["tokenizer"] | {"name": "residual"}
    options["training_schedule"] = {"name": "explicit", "grids": [1, 2, 4]}
    train(parse(TokenizerRecipe, options), device="cpu", say=quiet)
    losses = [line["loss"] for line in log(tmp_path) if line["kind"] == "train"]
    assert losses[-1] < losses[0]


def test_a_model_learns(tmp_path: Path, model_recipe: Any, trained_tokenizer: Path) -> None:
    recipe = model_recipe(
        trained_tokenizer, tmp_path, steps=60, batch_size=8, log_every=20, sample_every=60,
        cache={"directory": str(tmp_path / "cache"), "views": 1},
    )  # fmt: skip
    figures = train(recipe, device="cpu", say=quiet)
    lines = [line for line in log(tmp_path) if line["kind"] == "train"]
    assert lines[-1]["loss"] < 0.9 * lines[0]["loss"]
    assert {"loss/1x1", "accuracy/4x4", "last_loss", "gradient_norm", "images_per_second",
            "memory_mb"} <= lines[-1].keys()  # fmt: skip
    assert {"validation_loss", "last_accuracy", "loss/4x4"} <= figures.keys()
    pipe = Pipeline.from_pretrained(tmp_path)
    assert pipe.config.trained is not None
    assert pipe.config.trained.size == (16, 16)
    assert pipe.model.num_classes == 10


def test_a_stale_cache_is_refused(
    tmp_path: Path, model_recipe: Any, trained_tokenizer: Path
) -> None:
    cache = {"directory": str(tmp_path / "cache"), "views": 1}
    train(model_recipe(trained_tokenizer, tmp_path / "a", steps=1, cache=cache), device="cpu",
          say=quiet)  # fmt: skip
    with pytest.raises(FlexvarError, match="cache was made with another seed"):
        train(model_recipe(trained_tokenizer, tmp_path / "b", cache=cache, seed=1), device="cpu",
              say=quiet)  # fmt: skip


def test_lists_and_dropped_labels_follow_from_seed_and_step(
    model_recipe: Any, trained_tokenizer: Path
) -> None:
    recipe = model_recipe(trained_tokenizer, None)
    stages = [ModelStage(recipe, 4) for _ in range(2)]
    for step in range(5):
        assert stages[0].layout(step) == stages[1].layout(step)
    one, other = (dict(stage.players["main"].module.state_dict()) for stage in stages)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_coarse_steps_end_early_and_train(
    tmp_path: Path, model_recipe: Any, trained_tokenizer: Path
) -> None:
    plain = ModelStage(model_recipe(trained_tokenizer, None), 4)
    recipe = model_recipe(trained_tokenizer, tmp_path / "run", coarse=0.7)
    stage = ModelStage(recipe, 4)
    whole = cut = 0
    for step in range(60):
        full, layout = plain.layout(step), stage.layout(step)
        assert layout.grids == full.grids[: len(layout)]
        assert len(layout) >= min(2, len(full))
        whole += layout == full
        cut += layout != full
    assert whole > 5
    assert cut > 20
    train(recipe, say=quiet)
    pipe = Pipeline.from_pretrained(tmp_path / "run")
    # The lists that a user may ask for are those that reach the picture's own grid.
    drawn = [stage.layout(step) for step in range(256)]
    lengths = [len(layout) for layout in drawn if layout.last == stage.last]
    assert pipe.config.trained is not None
    assert pipe.config.trained.steps == (min(lengths), max(lengths))


def test_dry_run_says_what_it_takes(tokenizer_recipe: Any, tmp_path: Path) -> None:
    lines: list[str] = []
    train(tokenizer_recipe(tmp_path / "none"), dry_run=True, device="cpu", say=lines.append)
    text = "\n".join(lines)
    for word in ("M parameters", "16 tokens", "MB at its peak", "for 6 steps", "nothing was"):
        assert word in text
    assert not (tmp_path / "none").exists()


class Poisoned(ModelStage):
    """One weight turns into NaN before some steps."""

    bad: tuple[int, ...] = (1,)

    def before(self, step: int, *rest: Any) -> None:
        linear = self.players["main"].module.backbone.blocks[1].mlp_in
        if step in self.bad:
            self.kept = linear.bias.detach().clone()
            linear.bias.data[0] = torch.nan

    def probe(self, *args: Any) -> None:
        super().probe(*args)
        self.players["main"].module.backbone.blocks[1].mlp_in.bias.data.copy_(self.kept)


def test_a_step_that_is_not_finite_is_skipped(
    tmp_path: Path, model_recipe: Any, trained_tokenizer: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("flexvar.training.model_stage.ModelStage", Poisoned)
    lines: list[str] = []
    train(model_recipe(trained_tokenizer, tmp_path), device="cpu", say=lines.append)
    (line,) = [line for line in lines if "not finite" in line]
    assert "step 1:" in line
    assert "backbone.blocks.1.mlp_in" in line
    monkeypatch.setattr(Poisoned, "bad", tuple(range(2, 99)))
    recipe = model_recipe(trained_tokenizer, tmp_path / "b", steps=20, patience=2)
    with pytest.raises(FlexvarError, match=r"3 steps in a row.*learning_rate"):
        train(recipe, device="cpu", say=quiet)


def test_mistakes_have_messages(tmp_path: Path, trained_tokenizer: Path) -> None:
    def message(stage: Any, options: dict[str, Any]) -> str:
        with pytest.raises(FlexvarError) as error:
            train(parse(stage, options), device="cpu", say=quiet)
        return str(error.value)

    assert "out: missing" in message(TokenizerRecipe, tokenizer_options(None))
    small = tokenizer_options(
        tmp_path, data={"source": "digits", "size": 4}, losses=[{"name": "ssim"}]
    )
    assert "ssim needs pictures of at least 7 px" in message(TokenizerRecipe, small)
    odd = tokenizer_options(tmp_path, data={"source": "digits", "size": 18})
    assert "no whole number of cells" in message(TokenizerRecipe, odd)
    assert "no checkpoint nowhere" in message(ModelRecipe, model_options("nowhere", tmp_path))
    unknown = tokenizer_options(tmp_path) | {"stesp": 3}
    assert "did you mean 'steps'" in message(TokenizerRecipe, unknown)
    ahead = model_options(trained_tokenizer, tmp_path) | {"tokenizer": {"name": "multiscale"}}
    assert "train one first" in message(ModelRecipe, ahead)


def test_recomputed_activations_change_nothing(
    tmp_path: Path, model_recipe: Any, trained_tokenizer: Path
) -> None:
    for name, recompute in (("a", False), ("b", True)):
        recipe = model_recipe(
            trained_tokenizer, tmp_path / name, activation_checkpointing=recompute, steps=3
        )
        train(recipe, device="cpu", say=quiet)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in "ab")
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_cuda_asked_for_and_absent(tokenizer_recipe: Any, tmp_path: Path) -> None:
    with pytest.raises(FlexvarError, match="device: cuda cannot be used"):
        train(tokenizer_recipe(tmp_path), device="cuda", say=quiet)


def test_recipes_by_name() -> None:
    with pytest.raises(FlexvarError, match=r"no recipe 'phots' for a tokenizer.*photos"):
        load_recipe("phots", "tokenizer")
    recipe = load_recipe("small", "tokenizer", ["data=some/folder", "steps=3"], out="x")
    assert (recipe.data.source, recipe.data.size, recipe.steps, recipe.out) == (
        "some/folder", 64, 3, "x",
    )  # fmt: skip
    assert load_recipe("small-tokenizer", "tokenizer", ["data=digits"]).steps > 3
    with pytest.raises(FlexvarError, match="optimiser.clip"):
        load_recipe("small", "model", ["data=digits", "optimiser.clip=-1"])


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_valid(name: str) -> None:
    stage: Any = "tokenizer" if name.endswith("tokenizer") else "model"
    asks = name.startswith(("small", "finetune"))
    recipe = load_recipe(name, stage, ["data=digits"] if asks else [])
    assert recipe.steps > 0


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    path, out = tmp_path / "recipe.yaml", tmp_path / "run"
    path.write_text(yaml.safe_dump(tokenizer_options(out, steps=100_000, log_every=1)))
    words = [sys.executable, "-c", "from flexvar.cli import main; main()", "train"]
    process = subprocess.Popen(
        [*words, "tokenizer", str(path), "--device", "cpu"],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 2/"):
            break
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "all is saved" in rest
    assert "--resume" in rest
    (step,) = [int(word) for word in rest.split("Stopped after step ")[1].split(";")[:1]]
    assert (out / "checkpoints" / f"step-{step:08d}" / "state.pt").is_file()
    assert Pipeline.from_pretrained(out).size == (16, 16)


def test_frozen_parts_stay(tmp_path: Path, tokenizer_recipe: Any, trained_tokenizer: Path) -> None:
    frozen = ("encoder", "to_code", "codebook")
    options = {"start_from": str(trained_tokenizer), "freeze": frozen, "steps": 5}
    train(tokenizer_recipe(tmp_path, **options), device="cpu", say=quiet)
    one, other = (load_file(d / "tokenizer.safetensors") for d in (trained_tokenizer, tmp_path))
    for name in one:
        assert torch.equal(one[name], other[name]) == name.startswith(frozen), name
    before, after = (Pipeline.from_pretrained(d) for d in (trained_tokenizer, tmp_path))
    image_B3HW = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    layout = Layout.of(1, 2, (4, 6))
    maps = [pipe.tokenizer.encode(image_B3HW, layout) for pipe in (before, after)]
    assert all(torch.equal(a, b) for a, b in zip(*maps, strict=True))
    with pytest.raises(FlexvarError, match=r"freeze: no parameter.*'encode'.*encoder"):
        train(tokenizer_recipe(tmp_path / "b", freeze=("encode",)), device="cpu", say=quiet)


def test_a_model_learns_from_pictures_of_several_shapes(
    tmp_path: Path, model_recipe: Any, trained_tokenizer: Path
) -> None:
    from PIL import Image

    (tmp_path / "data" / "a").mkdir(parents=True)
    for number, size in enumerate([(40, 40), (40, 80), (80, 40)] * 5):
        color = (16 * number, 100, 60)
        Image.new("RGB", size, color).save(tmp_path / "data" / "a" / f"{number}.png")
    recipe = model_recipe(trained_tokenizer, tmp_path / "run", steps=6)
    data = recipe.data.model_copy(
        update={
            "source": str(tmp_path / "data"),
            "buckets": 8,
            "classes": None,
            "val_fraction": 0.2,
        }
    )
    figures = train(recipe.model_copy(update={"data": data}), device="cpu", say=quiet)
    assert figures["validation_loss"] > 0
