"""``generate`` and ``edit`` with words: pictures with their prompt, mistakes explained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import TINY
from PIL import Image
from typer.testing import CliRunner

from flexvar import Pipeline

pytest.importorskip("wordllama")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    config = {
        **TINY,
        "backbone": {"name": "transformer", "depth": 1, "width": 64},
        "conditioner": {"name": "text", "width": 32, "num_heads": 2, "max_tokens": 8},
    }
    return str(Pipeline.from_config(config).save_pretrained(tmp_path_factory.mktemp("m") / "words"))


def run(*arguments: str) -> Any:
    from flexvar.cli import application

    return CliRunner().invoke(application(arguments), list(arguments))


def test_generate_and_edit_write_the_prompt_into_their_pictures(model: str, tmp_path: Path) -> None:
    common = ("--model", model, "--seed", "1", "--out", str(tmp_path))
    done = run(
        "generate", "--prompt", "a red octopus", "--negative", "blue", "--size", "32x32", *common
    )
    assert done.exit_code == 0, done.output
    with Image.open(tmp_path / "00000.png") as image:
        settings = json.loads(image.info["flexvar"])
    assert (settings["prompt"], settings["negative"]) == ("a red octopus", "blue")
    picture = str(tmp_path / "00000.png")
    box = ("--box", "8,8,24,24", "--image", picture)
    done = run(
        "edit", "edit", *box, "--prompt", "🐙", "--model", model, "--out", str(tmp_path / "b")
    )
    assert done.exit_code == 0, done.output
    with Image.open(tmp_path / "b" / "00000.png") as image:
        assert json.loads(image.info["flexvar"])["prompt"] == "🐙"


def test_a_class_name_is_a_prompt(model: str, tmp_path: Path) -> None:
    for number, what in enumerate((("--label", "cat"), ("--prompt", "cat"))):
        done = run("generate", *what, "--size", "16", "--seed", "1", "--model", model,
                   "--out", str(tmp_path / str(number)))  # fmt: skip
        assert done.exit_code == 0, done.output
    first, second = (Image.open(tmp_path / name / "00000.png") for name in "01")
    assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--label", "cat", "--prompt", "a dog"), "both say what the images are to be of"),
        ((), 'give at least one: --prompt "a cat"'),
        (("--label", "cats"), "Did you mean 'cat'"),
    ],
)
def test_mistakes_are_explained(
    model: str, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = run("generate", *arguments, "--model", model, "--out", str(tmp_path))
    assert message in str(done.exception) + done.output
