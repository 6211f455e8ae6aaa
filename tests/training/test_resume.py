"""A run that stops and goes on ends as one that never stopped."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from flexvar import FlexvarError, Pipeline
from flexvar.cli import main
from flexvar.training import train
from flexvar.training.guard import Interrupted
from flexvar.training.run import RunDirectory

from .conftest import model_options, quiet, tokenizer_options


def weights(directory: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(directory / f"{name}.safetensors")


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    assert one.keys() == other.keys()
    return all(torch.equal(one[key], other[key]) for key in one)


def test_tokenizer_resumes_bit_for_bit(tmp_path: Path, tokenizer_recipe: Any) -> None:
    judge = {"start": 2, "layers": 1, "channels": 8}
    train(tokenizer_recipe(tmp_path / "a", adversarial=judge), device="cpu", say=quiet)
    stopping = tokenizer_recipe(tmp_path / "b", adversarial=judge, stop_after=3)
    with pytest.raises(Interrupted, match="after step 3"):
        train(stopping, device="cpu", say=quiet)
    torch.manual_seed(99)  # nothing may hang on where the random state was
    train(tokenizer_recipe(tmp_path / "b", adversarial=judge), resume=True, device="cpu", say=quiet)
    assert same(weights(tmp_path / "a", "tokenizer"), weights(tmp_path / "b", "tokenizer"))
    states = [RunDirectory(tmp_path / name).load(6) for name in "ab"]
    for player in ("main", "judge"):
        one, other = (state["players"][player]["weights"] for state in states)
        assert same(one, other)
    assert torch.equal(states[0]["more"]["use"], states[1]["more"]["use"])


def test_a_decoder_alone_resumes_bit_for_bit(
    tmp_path: Path, tokenizer_recipe: Any, trained_tokenizer: Path
) -> None:
    options = {"start_from": str(trained_tokenizer), "freeze": ("encoder", "to_code", "codebook")}
    train(tokenizer_recipe(tmp_path / "a", **options), device="cpu", say=quiet)
    stopping = tokenizer_recipe(tmp_path / "b", stop_after=3, **options)
    with pytest.raises(Interrupted, match="after step 3"):
        train(stopping, device="cpu", say=quiet)
    train(tokenizer_recipe(tmp_path / "b", **options), resume=True, device="cpu", say=quiet)
    assert same(weights(tmp_path / "a", "tokenizer"), weights(tmp_path / "b", "tokenizer"))


def test_model_resumes_bit_for_bit(
    tmp_path: Path, model_recipe: Any, trained_tokenizer: Path
) -> None:
    options = {"accumulate": 2}
    train(model_recipe(trained_tokenizer, tmp_path / "a", **options), device="cpu", say=quiet)
    with pytest.raises(Interrupted):
        train(
            model_recipe(trained_tokenizer, tmp_path / "b", stop_after=4, **options),
            device="cpu",
            say=quiet,
        )
    recipe = model_recipe(trained_tokenizer, tmp_path / "b", **options)
    train(recipe, resume=True, device="cpu", say=quiet)
    assert same(weights(tmp_path / "a", "model"), weights(tmp_path / "b", "model"))
    pipe = Pipeline.from_pretrained(tmp_path / "b")
    assert pipe(labels=[1], seed=0, progress=False).images[0].size == (16, 16)


def test_a_run_is_not_overwritten(tmp_path: Path, tokenizer_recipe: Any) -> None:
    recipe = tokenizer_recipe(tmp_path, steps=1)
    train(recipe, device="cpu", say=quiet)
    with pytest.raises(FlexvarError, match="already holds a run, at step 1"):
        train(recipe, device="cpu", say=quiet)


def test_another_recipe_is_refused(tmp_path: Path, tokenizer_recipe: Any) -> None:
    train(tokenizer_recipe(tmp_path, steps=1), device="cpu", say=quiet)
    changed = tokenizer_recipe(tmp_path, steps=2, seed=7, batch_size=2)
    with pytest.raises(FlexvarError, match="seed: was 0, is 7\n.*images per step.*was 4, is 2"):
        train(changed, resume=True, device="cpu", say=quiet)


def test_a_stage_does_not_take_over_the_other(
    tmp_path: Path, tokenizer_recipe: Any, model_recipe: Any, trained_tokenizer: Path
) -> None:
    train(tokenizer_recipe(tmp_path, steps=1), device="cpu", say=quiet)
    with pytest.raises(FlexvarError, match="holds a run of stage tokenizer"):
        train(model_recipe(trained_tokenizer, tmp_path), resume=True, device="cpu", say=quiet)


def test_half_written_checkpoints_are_ignored(tmp_path: Path, tokenizer_recipe: Any) -> None:
    train(tokenizer_recipe(tmp_path, steps=1), device="cpu", say=quiet)
    left = tmp_path / "checkpoints" / ".step-00000002.tmp"
    left.mkdir()
    (left / "state.pt").write_bytes(b"half")
    run = RunDirectory(tmp_path)
    assert run.steps() == [1]
    train(tokenizer_recipe(tmp_path, steps=2), resume=True, device="cpu", say=quiet)
    assert not left.exists()
    assert run.steps() == [1, 2]


def test_latest_and_best_checkpoints_stay(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.create()
    for step in range(1, 6):
        run.save({"step": step, "format": 1}, keep=2)
        if step == 2:
            run.set_best(2, 0.5)
    assert run.steps() == [2, 4, 5]


def test_a_full_disk_keeps_the_earlier_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(tmp_path)
    run.create()
    run.save({"step": 1, "format": 1}, keep=2)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(FlexvarError, match=r"No space left.*step 1 is whole.*--resume"):
        run.save({"step": 2, "format": 1}, keep=2)
    assert run.steps() == [1]
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_a_checkpoint_cannot_run_code(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    run.create()
    run.folder(1).mkdir()
    torch.save({"step": 1, "evil": Path("x")}, run.folder(1) / "state.pt")
    with pytest.raises(FlexvarError, match="cannot be read"):
        run.load(1)


def test_a_broken_checkpoint_is_set_aside_for_the_one_before(
    tmp_path: Path, tokenizer_recipe: Any
) -> None:
    options = {"save_every": 2, "validate_every": 2, "keep": 3}
    train(tokenizer_recipe(tmp_path / "a", **options), device="cpu", say=quiet)
    with pytest.raises(Interrupted):
        train(tokenizer_recipe(tmp_path / "b", stop_after=4, **options), device="cpu", say=quiet)
    run = RunDirectory(tmp_path / "b")
    assert run.steps() == [2, 4]
    run.set_best(4, 99.0)
    state = run.folder(4) / "state.pt"
    state.write_bytes(state.read_bytes()[:5000])  # what a loss of power may leave
    lines: list[str] = []
    recipe = tokenizer_recipe(tmp_path / "b", **options)
    train(recipe, resume=True, device="cpu", say=lines.append)
    assert any("state.pt cannot be read" in line and "before it" in line for line in lines)
    assert "going on after step 2" in lines
    assert (run.checkpoints / "unreadable-step-00000004" / "state.pt").stat().st_size == 5000
    assert run.steps() == [2, 4, 6]
    assert same(weights(tmp_path / "a", "tokenizer"), weights(tmp_path / "b", "tokenizer"))
    assert run.best() == RunDirectory(tmp_path / "a").best()


def test_nothing_begins_afresh_over_broken_checkpoints(
    tmp_path: Path, tokenizer_recipe: Any
) -> None:
    train(tokenizer_recipe(tmp_path, steps=1), device="cpu", say=quiet)
    (tmp_path / "checkpoints" / "step-00000001" / "state.pt").write_bytes(b"")
    with pytest.raises(FlexvarError, match="None of the 1 checkpoints .* another --out"):
        train(tokenizer_recipe(tmp_path), resume=True, device="cpu", say=quiet)


def test_a_checkpoint_is_there_while_it_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunDirectory(tmp_path)
    run.create()
    run.save({"step": 1, "format": 1, "turn": 1}, keep=1)
    seen: list[Any] = []
    replace = os.replace

    def watched(*paths: Any) -> None:
        seen.append(run.load(1)["turn"])
        replace(*paths)
        seen.append(run.load(1)["turn"])

    monkeypatch.setattr(os, "replace", watched)
    run.save({"step": 1, "format": 1, "turn": 2}, keep=1)
    assert seen == [1, 1, 2]  # the folder does not move over the old one, the file does


def test_best_is_what_the_state_says(tmp_path: Path, tokenizer_recipe: Any) -> None:
    options = {"save_every": 2, "validate_every": 2, "keep": 3}
    with pytest.raises(Interrupted):
        train(tokenizer_recipe(tmp_path, stop_after=2, **options), device="cpu", say=quiet)
    run = RunDirectory(tmp_path)
    written = run.best()
    assert written is not None
    assert written["step"] == 2
    run.set_best(1, -1.0)  # as if it had been killed before it was written
    with pytest.raises(Interrupted):
        train(tokenizer_recipe(tmp_path, stop_after=1, **options), resume=True, device="cpu",
              say=quiet)  # fmt: skip
    assert run.best() == written


def test_other_classes_or_tokens_are_refused(
    tmp_path: Path, model_recipe: Any, trained_tokenizer: Path
) -> None:
    for name in ("red", "green"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (20, 20), name).save(tmp_path / "data" / name / f"{number}.png")
    tokenizer = tmp_path / "tokenizer"
    shutil.copytree(trained_tokenizer, tokenizer)
    data = {"source": str(tmp_path / "data"), "size": 16}
    options: dict[str, Any] = {"data": data, "validation_images": 1}
    train(model_recipe(tokenizer, tmp_path / "run", steps=1, **options), device="cpu", say=quiet)
    longer = model_recipe(tokenizer, tmp_path / "run", steps=2, **options)
    path = tokenizer / "tokenizer.safetensors"
    before = path.read_bytes()
    other = {name: tensor + 1 for name, tensor in load_file(path).items()}
    save_file(other, path)
    with pytest.raises(
        FlexvarError, match="holds other weights|is not the file that config.json was written with"
    ):
        train(longer, resume=True, device="cpu", say=quiet)
    path.write_bytes(before)
    shutil.copytree(tmp_path / "data" / "red", tmp_path / "data" / "blue")
    with pytest.raises(FlexvarError, match=r"other classes: there were 2 \(green, red\), now 3"):
        train(longer, resume=True, device="cpu", say=quiet)


def test_ten_steps_and_ten_more_are_twenty_on_the_command_line(tmp_path: Path) -> None:
    def run(stage: str, name: str, *words: str) -> int:
        try:
            main(["train", stage, str(tmp_path / f"{stage}.yaml"), "device=cpu", "steps=20",
                  "ema=0.9", "save_every=5", "validate_every=5", f"out={tmp_path / name}",
                  *words])  # fmt: skip
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    whole = tmp_path / "tokenizer-whole"
    options = tokenizer_options()
    (tmp_path / "tokenizer.yaml").write_text(yaml.safe_dump(options))
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(model_options(whole, None)))
    cache = f"cache={{directory: {tmp_path / 'cache'}, views: 1}}"
    cases = [("tokenizer", "tokenizer", ()), ("model", "model", ("workers=2",)),
             ("model", "cached", (cache,))]  # fmt: skip
    for stage, name, more in cases:
        assert run(stage, f"{name}-whole", *more) == 0
        assert run(stage, f"{name}-halves", "stop_after=10", *more) == 130
        assert run(stage, f"{name}-halves", "--resume", *more) == 0
        runs = [RunDirectory(tmp_path / f"{name}-{part}") for part in ("whole", "halves")]
        one, other = (r.load(20) for r in runs)
        assert one["players"]["main"]["optimiser"]["state"]
        assert alike(one["players"], other["players"])
        assert alike(one["ema"], other["ema"])
        assert alike(one["more"], other["more"])
        assert runs[0].best() == runs[1].best() is not None
        assert same(*(weights(r.path, stage) for r in runs))


def alike(one: Any, other: Any) -> bool:
    """Whether two nested states are the same to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(alike(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(alike, one, other))
    return bool(one == other)


def test_a_run_from_before_an_option_existed_goes_on() -> None:
    """Options that came later are at their defaults in it; a changed one is still refused."""
    import json

    from flexvar.training.recipe import ModelRecipe
    from flexvar.training.state import check_same

    recipe = ModelRecipe(
        data={"source": "digits", "size": 32},
        tokenizer="t",
        backbone={"name": "transformer"},
        steps=9,
    )
    stored = recipe.model_dump(mode="json")
    for name in ("objective", "freeze"):
        del stored[name]
    del stored["data"]["streaming"], stored["optimiser"]["clip"]
    before = {"recipe": json.dumps(stored), "images_per_step": 8}
    check_same(recipe, before, 8)
    sharper = recipe.optimiser.model_copy(update={"clip": 0.5})
    with pytest.raises(FlexvarError, match=r"optimiser.clip: was 2.0, is 0.5"):
        check_same(recipe.model_copy(update={"optimiser": sharper}), before, 8)
    other = recipe.model_copy(update={"freeze": ("backbone.*",)})
    with pytest.raises(FlexvarError, match=r"freeze"):
        check_same(other, before, 8)
