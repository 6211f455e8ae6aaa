"""A run that is killed, whenever it is, goes on and ends as one that never was."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from .conftest import tokenizer_options
from .test_resume import same

KILLED = Path(__file__).with_name("killed.py")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
# A few changes to the disk, in saves and between them; 1 for all of them, some minutes.
STRIDE = os.environ.get("FLEXVAR_KILL_STRIDE", "23")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_at_a_change_to_the_disk(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(KILLED), str(tmp_path), STRIDE],
        capture_output=True, text=True, env=ENVIRONMENT, timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["killed"] == len(range(0, found["changes"], int(STRIDE)))
    assert found["changes"] > 30
    assert found["wrong"] == []


@pytest.mark.slow
def test_the_command_is_killed_while_it_saves(tmp_path: Path) -> None:
    options = tokenizer_options(tmp_path / "run", steps=24, save_every=1, keep=1, log_every=24)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(options))
    words = [sys.executable, "-c", "from flexvar.cli import main; main()", "train", "tokenizer"]
    words += [str(recipe), "--device", "cpu", "--resume"]
    process = subprocess.Popen(words, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    checkpoints, until = tmp_path / "run" / "checkpoints", time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        names = [path.name for path in checkpoints.glob("*step-*")]
        if any(name.endswith(".tmp") for name in names) and len(names) > 1:
            break
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert "going on after step" in done.stdout
    # In a process as well: the number of threads, which the environment sets, moves the last bits.
    whole = [*words[:-1], f"out={tmp_path / 'a'}", "save_every=0"]
    subprocess.run(whole, env=ENVIRONMENT, check=True, stdout=subprocess.DEVNULL, timeout=240)
    one, other = (load_file(tmp_path / d / "tokenizer.safetensors") for d in ("a", "run"))
    assert same(one, other)
