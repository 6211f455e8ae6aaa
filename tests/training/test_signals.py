"""Signals stop a run with its workers as a user means it: saved, said, and nobody left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from helpers import signalled

from flexvar.data.workers import serve
from flexvar.training.guard import StopRequest
from flexvar.training.run import RunDirectory

from .conftest import tokenizer_options

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
COMMAND = (
    "import multiprocessing, sys; multiprocessing.set_start_method(sys.argv.pop(1)); "
    "from flexvar.cli import main; main()"
)


def in_group(group: int) -> list[int]:
    """Processes of a group that still run."""
    found = subprocess.run(["ps", "-eo", "pid,pgid,stat"], capture_output=True, text=True)
    rows = [line.split() for line in found.stdout.splitlines()[1:]]
    return [int(pid) for pid, pgid, stat in rows if int(pgid) == group and stat[0] != "Z"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "number", "times"),
    # Each starts Python four times, so one of each kind has to do.
    [("spawn", signal.SIGINT, 2), ("forkserver", signal.SIGTERM, 1)],
)
def test_a_signal_to_the_whole_group_saves_and_says_how_to_go_on(
    tmp_path: Path, method: str, number: signal.Signals, times: int
) -> None:
    options = tokenizer_options(tmp_path / "run", steps=100_000, workers=2, log_every=1)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(options))
    words = [sys.executable, "-c", COMMAND, method, "train", "tokenizer", recipe, "--device", "cpu"]
    log = tmp_path / "run" / "log.jsonl"
    process, said = signalled(words, log.exists, [number] * times, pause=0.05)
    assert process.returncode == 130, said
    assert "all is saved. Go on with:" in said
    assert "--resume" in said.splitlines()[-1]
    assert RunDirectory(tmp_path / "run").steps()
    until = time.monotonic() + 20
    while in_group(process.pid) and time.monotonic() < until:
        time.sleep(0.2)
    assert in_group(process.pid) == []


def test_a_signal_repeated_at_once_is_one_wish_and_a_later_one_stops() -> None:
    stop = StopRequest()
    with stop.listening():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.asked
        stop._at -= 10
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_worker_ignores_what_is_for_its_parent_and_ends_at_the_second_term() -> None:
    pid = os.fork()
    if pid == 0:
        serve()
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 128 + signal.SIGTERM


def test_signals_come_after_they_were_held() -> None:
    """In a process of its own: where a test runner has threads, one of them takes the signal."""
    code = """if True:
        import os, signal
        from flexvar.data.workers import signals_held
        held = False
        try:
            with signals_held():
                os.kill(os.getpid(), signal.SIGINT)
                held = True
            signal.pause()
        except KeyboardInterrupt:
            print("held" if held else "at once")
    """
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout == "held\n"
