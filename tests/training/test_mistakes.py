"""Mistakes on the command line: a message, exit code 2, no traceback, nothing lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from flexvar.cli import main

from .conftest import model_options, tokenizer_options

Run = Any


def pictures(root: Path, **counts: int) -> Path:
    for name, count in counts.items():
        folder = root / name.replace("__", "/")
        folder.mkdir(parents=True)
        for number in range(count):
            noise = np.random.default_rng(number).integers(0, 256, (9, 12, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / f"{number}.png")
    return root


@pytest.fixture
def run(tmp_path: Path, trained_tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``flexvar train`` on the CPU; exit code and all that was printed."""
    recipes = {"tokenizer": tokenizer_options(), "model": model_options(trained_tokenizer, None)}
    for stage, options in recipes.items():
        (tmp_path / f"{stage}.yaml").write_text(yaml.safe_dump(options | {"steps": 1}))

    def command(stage: str, *words: object, recipe: str | None = None) -> tuple[int, str]:
        path = recipe or str(tmp_path / f"{stage}.yaml")
        code = 0
        try:
            main(["train", stage, path, "--out", str(tmp_path / "run"), *map(str, words)])
        except SystemExit as end:
            code = int(end.code or 0)
        return code, "".join(capsys.readouterr())

    return command


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("tokenizer steps=0", "steps: got 0; expected greater than or equal to 1"),
        ("tokenizer stesp=3", "did you mean 'steps'"),
        ("tokenizer optimiser.learning_rat=3", "did you mean 'learning_rate'"),
        ("tokenizer data.sise=3", "data.sise: unknown option; did you mean 'size'"),
        ("tokenizer resume=true", "write --resume"),
        ("tokenizer steps", "write key=value"),
        ("tokenizer start_from=photos", "start_from (photos) do not fit"),
        ("model start_from=photos", "These look like depth 6; the config says 2"),
        ("model sampler=ssg", "sampler: a preset names it"),
        ("model presets.default.sampler=ssg", "presets: {default: {name: SAMPLER"),
        ("model sample_labels=[3,99]", "sample_labels: got 99; the data has 10 classes"),
        ("model tokenizer=nowhere", "There is no checkpoint nowhere"),
        ("model tokenizer=photos data.size=20", "stride 8"),
    ],
)
def test_options(run: Run, tmp_path: Path, words: str, message: str) -> None:
    code, text = run(*words.split(" "), "device=cpu")
    assert code == 2
    assert message in text
    assert not (tmp_path / "run").exists()


def test_recipes(run: Run) -> None:
    for stage, recipe, message in (
        ("tokenizer", "smal", "Did you mean 'small'?"),
        ("tokenizer", "digits-model", "is for `flexvar train model`"),
        ("model", "digits-tokenizer", "is for `flexvar train tokenizer`"),
        ("model", "none.yaml", "none.yaml cannot be read: No such file"),
    ):
        code, text = run(stage, recipe=recipe)
        assert code == 2
        assert message in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_cuda_asked_for_and_absent(run: Run) -> None:
    for words in (("device=cuda",), ("--device", "cuda")):
        code, text = run("tokenizer", *words)
        assert code == 2
        assert "device: cuda cannot be used" in text


def test_a_loss_below_its_resolution(run: Run) -> None:
    code, text = run("tokenizer", "losses=[{name: ssim}]", "data.size=4", "device=cpu")
    assert code == 2
    assert "ssim needs pictures of at least 7 px" in text


def test_places(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    for words, message in (
        ((f"data={file}",), "is a file; name the folder"),
        ((f"data={tmp_path / 'none'}",), "there is no such folder"),
        (("--out", str(file)), "is a file; name a directory"),
        (("--out", str(file / "below")), "is a file; name a directory"),
    ):
        code, text = run("tokenizer", "device=cpu", *words)
        assert code == 2
        assert message in text
    assert file.read_text() == "kept"


def test_folders(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    broken = pictures(tmp_path / "broken", a=2)
    for path in (broken / "a").iterdir():
        path.write_text("no picture")
    half = pictures(tmp_path / "half", train__a=1, val__a=2)
    (half / "train" / "a" / "0.png").write_text("no picture")
    odd = pictures(tmp_path / "odd", train__a=2, val__z=1)
    for folder, message in (
        (tmp_path / "empty", "holds no picture. Expected"),
        (broken, "No validation picture of"),
        (half, "not a known format"),
        (odd, "the validation folder has the class 'z', which the training folder has not"),
    ):
        code, text = run("tokenizer", f"data={folder}", "device=cpu")
        assert code == 2
        assert message in text


def test_odd_folders_train(run: Run, tmp_path: Path) -> None:
    one = pictures(tmp_path / "one", cat=3)
    (one / "cat" / "text.png").write_text("no picture")
    path = one / "cat" / "cut.jpg"
    Image.new("RGB", (40, 40)).save(path)
    path.write_bytes(path.read_bytes()[:600])
    code, text = run("tokenizer", f"data={one}", "batch_size=8", "device=cpu")
    assert code == 0
    assert "4 pictures to train on, 1 to validate, 1 class (cat)" in text
    assert "next: flexvar train model" in text


def test_small_pictures_and_absent_classes_are_said(run: Run, tmp_path: Path) -> None:
    folder = pictures(tmp_path / "split", train__a=2, train__b=2, val__a=1)
    code, text = run("tokenizer", f"data={folder}", "device=cpu")
    assert code == 0
    assert "Warning: The validation folder of" in text
    assert "holds no picture of b: validation says nothing" in text
    assert "9x12 pixels, less than the 16x16" in text


def test_another_recipe_and_a_run_that_is_there(run: Run, tmp_path: Path) -> None:
    assert run("tokenizer", "device=cpu")[0] == 0
    files = [p for p in (tmp_path / "run").rglob("*.*") if p.is_file() and p.name != ".lock"]
    before = {p: p.read_bytes() for p in files}
    for words, message in (
        (("tokenizer",), "already holds a run, at step 1. Go on with --resume"),
        (("tokenizer", "--resume", "seed=3", "steps=2"), "seed: was 0, is 3"),
        (("model", "--resume"), "holds a run of stage tokenizer"),
    ):
        code, text = run(*words, "device=cpu")
        assert code == 2
        assert message in text
    assert {p: p.read_bytes() for p in before} == before
    code, text = run("tokenizer", "--resume", "device=cpu")
    assert code == 0
    assert "is finished: 1 step done" in text


def test_a_disk_without_room_keeps_what_is_there(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path, out = tmp_path / "recipe.yaml", tmp_path / "run"
    path.write_text(yaml.safe_dump(tokenizer_options(out, steps=4)))
    words = [sys.executable, "-c", "from flexvar.cli import main; main()", "train", "tokenizer"]
    words += [str(path), "--device", "cpu"]

    def start(most: int, *more: str) -> tuple[int, str]:
        done = subprocess.run(
            [*words, *more], capture_output=True, text=True, timeout=240,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            # No file can grow beyond it, as on a full disk.
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    assert start(2**30, "stop_after=2")[0] == 130
    # Room for the weights, not for the optimiser's state too.
    size = (out / "tokenizer.safetensors").stat().st_size
    code, text = start(2 * size, "--resume")
    assert code == 2
    assert "Traceback" not in text
    assert "checkpoint of step 2 is whole" in text
    assert "File too large" in text
    assert start(2**30, "--resume")[0] == 0
