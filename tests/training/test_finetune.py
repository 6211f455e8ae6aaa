"""Fine-tuning takes over what a model knows; LoRA changes little of it and can be kept apart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY, shake
from PIL import Image

from flexvar import FlexvarError, Pipeline
from flexvar.adapters import adapt, load_adapter, parse_adapter
from flexvar.cli.again import adapters_of
from flexvar.config import parse
from flexvar.generation import engine
from flexvar.training import ModelRecipe, TokenizerRecipe, load_recipe, train
from flexvar.training.memorisation import memorisation
from flexvar.training.model_stage import ModelStage
from flexvar.training.optimiser import freeze
from flexvar.training.stage import full_tensors
from flexvar.training.starting import Base, nearest_name, take_over

from .conftest import model_options, quiet, tokenizer_options

SMALL: dict[str, Any] = {
    "steps": 2, "batch_size": 2, "validate_every": 0, "sample_every": 0, "save_every": 0,
    "log_every": 1, "validation_images": 4, "tensorboard": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes: one that the base has by another name, one by the same, one it has not."""
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name in ("3", "digit 7", "fox"):
        (root / name).mkdir()
        for number in range(6):
            pixels = rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / f"{number}.png")
    return root


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of digits that has seen a few batches."""
    root = tmp_path_factory.mktemp("base")
    train(parse(TokenizerRecipe, tokenizer_options(root / "t")), device="cpu", say=quiet)
    options = model_options(root / "t", root / "m", steps=3)
    train(parse(ModelRecipe, options), device="cpu", say=quiet)
    return root / "m"


def recipe(base: Path, data: Path | str, **changes: Any) -> ModelRecipe:
    options = {**SMALL, "data": str(data), "start_from": str(base), **changes}
    return parse(ModelRecipe, options)


def at_step_0(stage: ModelStage) -> Pipeline:
    return stage.pipeline(full_tensors(stage.players["main"].module.state_dict()))


def made(pipe: Pipeline, label: str) -> torch.Tensor:
    return pipe([label], seed=5, progress=False, output="tensor").images


def test_names_are_matched() -> None:
    known = ["cat", "golden retriever", "rocket"]
    assert nearest_name("Cat", known) == "cat"
    assert nearest_name("tabby_cat", known) == "cat"
    assert nearest_name("retriever", known) == "golden retriever"
    assert nearest_name("rockets", known) == "rocket"
    assert nearest_name("fox", known) is None


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_step_0_is_the_base_model_to_the_bit(base: Path, lora: Any) -> None:
    if lora:
        pytest.importorskip("peft")
    before = Pipeline.from_pretrained(base)
    stage = ModelStage(recipe(base, "digits", lora=lora), 2)
    assert stage.recipe.data.size == (16, 16)  # the base's, as the recipe says nothing
    after = at_step_0(stage)
    for name, weight in before.model.state_dict().items():
        torch.testing.assert_close(after.model.state_dict()[name], weight, rtol=0, atol=0)
    assert np.array_equal(
        before(["3"], seed=1, progress=False).images[0],
        after(["3"], seed=1, progress=False).images[0],
    )


def test_other_classes_start_from_the_nearest_or_the_mean_and_it_says_which(
    base: Path, pictures: Path
) -> None:
    stage = ModelStage(recipe(base, pictures), 2)
    table = Pipeline.from_pretrained(base).model.state_dict()["class_embedding.weight"]
    mine = at_step_0(stage).model.state_dict()["class_embedding.weight"]
    assert mine.shape[0] == 4
    expected = torch.stack([table[3], table[7], table[:-1].mean(dim=0), table[-1]])
    torch.testing.assert_close(mine, expected)
    said = "\n".join(stage.describe())
    assert "3, digit 7 (from 7)" in said
    assert "mean of all" in said
    assert "fox" in said


def test_a_run_trains_from_there_and_freezing_leaves_weights(base: Path, pictures: Path,
                                                             tmp_path: Path) -> None:  # fmt: skip
    said: list[str] = []
    chosen = recipe(base, pictures, out=str(tmp_path), memorisation=6, presets={},
                    freeze=["position", "backbone.blocks.0.*"])  # fmt: skip
    train(chosen, device="cpu", say=said.append)
    before, after = (Pipeline.from_pretrained(p).model.state_dict() for p in (base, tmp_path))
    same = {n for n in before if before[n].shape == after[n].shape and before[n].equal(after[n])}
    assert {n for n in before if n.startswith(("position", "backbone.blocks.0."))} <= same
    assert "backbone.blocks.1.attention.qkv.weight" not in same
    assert any(line.startswith("memorisation: samples are") for line in said)
    with pytest.raises(FlexvarError, match="freeze: no parameter is called 'nothing'"):
        freeze(torch.nn.Linear(1, 1), ["nothing"])


def test_lora_trains_little_and_the_adapter_alone_gives_the_same_model(
    base: Path, pictures: Path, tmp_path: Path
) -> None:
    pytest.importorskip("peft")
    said: list[str] = []
    options = {"optimiser": {"learning_rate": 0.1, "warmup": 0}, "lora": {"rank": 1}}
    train(recipe(base, pictures, out=str(tmp_path), **options), device="cpu", say=said.append)
    assert any(line.startswith("LoRA of rank 1") for line in said)
    whole, before = Pipeline.from_pretrained(tmp_path), Pipeline.from_pretrained(base)
    pipe = adapt(Pipeline.from_pretrained(base), [(tmp_path / "adapter", 1.0)])
    mine = pipe.model.state_dict()
    for name, weight in whole.model.state_dict().items():
        if name != "class_embedding.weight":
            torch.testing.assert_close(mine[name], weight)
    changed = before.model.state_dict()["backbone.blocks.0.attention.qkv.weight"]
    assert not changed.equal(mine["backbone.blocks.0.attention.qkv.weight"])
    assert before.model.state_dict()["head.logits.weight"].equal(mine["head.logits.weight"])
    # The base's classes, and after them those of the adapter.
    assert pipe.class_names == (*(str(n) for n in range(10)), "digit 7", "fox")
    for name in ("3", "digit 7", "fox"):
        torch.testing.assert_close(made(pipe, name), made(whole, name), atol=1e-4, rtol=0)
    none = adapt(Pipeline.from_pretrained(base), [(tmp_path / "adapter", 0.0)])
    assert made(none, "7").equal(made(before, "7"))
    two = adapt(before, [(tmp_path / "adapter", 0.5), (tmp_path / "adapter", 0.5)])
    name = "backbone.blocks.0.attention.qkv.weight"
    torch.testing.assert_close(two.model.state_dict()[name], mine[name])
    adapter = load_adapter(tmp_path / "adapter")
    assert adapter.parameters < 0.25 * sum(p.numel() for p in before.model.parameters())
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    # Rounded weights are adapted as the exact ones; pictures say what changed them.
    rounded = Pipeline.from_pretrained(base, dtype="bf16")
    engine.use_kernels(rounded, True)
    half = adapt(rounded, [(tmp_path / "adapter", 1.0)])
    assert half.dtype == torch.bfloat16
    # Kernels are taken as before.
    assert (half.fused, half.model.head.fused) == (True, True)
    assert (pipe.fused, pipe.model.head.fused) == (False, False)
    exact = half.to(torch.float32).model.state_dict()
    assert all(exact[name].equal(weight) for name, weight in mine.items())
    result = pipe(["fox"], seed=5, steps=2, progress=False)
    about = result.image_settings(0)
    assert about["adapters"] == [f"{tmp_path / 'adapter'}:1"]
    assert len(about["weights"]) == len(before.origin["weights"]) + 1
    assert adapters_of(about, tmp_path / "x.png") == about["adapters"]
    with pytest.raises(FlexvarError, match="which is not here"):
        adapters_of({"adapters": ["gone:1"]}, tmp_path / "x.png")
    with pytest.raises(FlexvarError, match="was made for other weights"):
        adapt(whole, [(tmp_path / "adapter", 1.0)])
    with pytest.raises(FlexvarError, match="holds no adapter"):
        load_adapter(tmp_path)


def test_adapters_are_written_with_their_share() -> None:
    assert parse_adapter("runs/a") == ("runs/a", 1.0)
    assert parse_adapter("runs/a:0.5") == ("runs/a", 0.5)
    assert parse_adapter("runs/a:b") == ("runs/a:b", 1.0)
    with pytest.raises(FlexvarError, match="share of the adapter runs/a is nan"):
        parse_adapter("runs/a:nan")


def test_copies_of_training_pictures_are_found() -> None:
    source = torch.Generator().manual_seed(0)
    pictures, others, held = (
        torch.nn.functional.interpolate(
            torch.rand(40, 3, 4, 4, generator=source) * 2 - 1, (32, 32), mode="bilinear"
        )
        for _ in range(3)
    )
    copies = memorisation([pictures[:10].flip(-1)], [held], [pictures])
    assert copies.near == 1
    assert "10 of 10 are nearer" in copies.line()
    fresh = memorisation([others], [held], [pictures])
    assert fresh.near <= 0.05
    assert abs(fresh.of_samples - fresh.of_held_out) < 0.1


def test_what_fine_tuning_needs_is_said(base: Path) -> None:
    with pytest.raises(FlexvarError, match="tokenizer: missing"):
        parse(ModelRecipe, {"data": "digits", "steps": 1})
    with pytest.raises(FlexvarError, match="lora: needs start_from"):
        load_recipe("digits", "model", ["lora.rank=4"])
    pytest.importorskip("peft")
    with pytest.raises(FlexvarError, match=r"lora.targets: the model has none of nothing.*qkv"):
        ModelStage(recipe(base, "digits", lora={"targets": ["nothing"]}), 2)
    assert load_recipe("finetune", "model", ["data=digits"]).start_from == "photos"


def test_a_model_of_words_starts_from_one_with_other_names() -> None:
    pytest.importorskip("wordllama")
    words = {"name": "text", "max_tokens": 4, "width": 16, "num_heads": 2, "depth": 1}
    config = {**TINY, "conditioner": words, "num_classes": 2}
    old = shake(Pipeline.from_config({**config, "class_names": ["red fox", "owl"]}, seed=1))
    names = ["a very large green dragon", "owl"]
    new = Pipeline.from_config({**config, "class_names": names}, seed=2)
    kept = new.model.conditioner.name_index.clone()
    say = take_over(new.model, Base("old", old.config, old.parts), names)
    assert say == ["all weights start as those of old"]
    assert torch.equal(new.model.conditioner.name_index, kept)
    before = dict(old.model.named_parameters())
    assert all(torch.equal(p, before[name]) for name, p in new.model.named_parameters())
