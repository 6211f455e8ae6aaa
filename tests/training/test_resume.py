"""A run that stops and goes on ends as one that never stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from flexvar import FlexvarError, Pipeline
from flexvar.training import train
from flexvar.training.guard import Interrupted
from flexvar.training.run import RunDirectory

from .conftest import quiet


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
