"""What the environment says is taken, set aside with a word, or refused; never silently."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flexvar import FlexvarError
from flexvar.training import environment, train


def losses(directory: Path) -> list[float]:
    lines = map(json.loads, (directory / "log.jsonl").read_text().splitlines())
    return [line["gradient_norm"] for line in lines if line["kind"] == "train"]


def test_accumulation_of_accelerate_changes_no_gradient_and_is_said(
    tmp_path: Path, tokenizer_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tokenizer_recipe(tmp_path / "one", steps=2), device="cpu", say=lambda line: None)
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    said: list[str] = []
    train(tokenizer_recipe(tmp_path / "two", steps=2), device="cpu", say=said.append)
    assert losses(tmp_path / "two") == losses(tmp_path / "one")
    aside = [line for line in said if "is set aside" in line]
    assert len(aside) == 2
    assert "ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4" in aside[0]
    assert "accumulate" in aside[0]


def test_what_a_launcher_sets_without_meaning_needs_no_word(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "no")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    with environment.own_numbers("fp32") as lines:
        assert lines == []
    with environment.own_numbers("bf16") as lines:
        assert lines == []


def test_deepspeed_is_refused(
    tmp_path: Path, tokenizer_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(FlexvarError, match="DeepSpeed, which flexvar does not train with"):
        train(tokenizer_recipe(tmp_path), device="cpu")


@pytest.mark.parametrize(
    ("left", "message"),
    [
        ({"WORLD_SIZE": "4", "RANK": "0"}, "unset WORLD_SIZE|unset RANK WORLD_SIZE"),
        ({"WORLD_SIZE": "many"}, "WORLD_SIZE=many in the environment is no number"),
    ],
)
def test_what_is_left_of_a_launcher_is_named(
    tmp_path: Path,
    tokenizer_recipe: Any,
    monkeypatch: pytest.MonkeyPatch,
    left: dict[str, str],
    message: str,
) -> None:
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(FlexvarError, match=message):
        train(tokenizer_recipe(tmp_path), device="cpu")
