"""A set of samples that is stopped: nobody left behind, nothing half written, and how to go on."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers import signalled

from flexvar.cli.output import terminated_as_interrupted
from flexvar.evaluation.processes import shared_out
from flexvar.files import whole_file

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
TIMES = float(os.environ.get("FLEXVAR_FUZZ", "1"))
WAYS = {
    "one Ctrl-C": [signal.SIGINT],
    "two at once": [signal.SIGINT, signal.SIGINT],
    "SIGTERM to all": [signal.SIGTERM],
    "all of them": [signal.SIGINT, signal.SIGTERM, signal.SIGINT],
}


def in_group(group: int) -> list[int]:
    """Processes of a group that still run."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, its_group = path.read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if int(its_group) == group and state != "Z":
            found.append(int(path.parent.name))
    return found


def nobody_in(group: int, seconds: float = 20.0) -> bool:
    until = time.monotonic() + seconds
    while in_group(group):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


def writer(folder: Path) -> Callable[[int], Callable[[int], int]]:
    def begin(number: int) -> Callable[[int], int]:
        def work(task: int) -> int:
            with whole_file(folder / f"{task}.txt") as temporary:
                temporary.write_text("half")
                time.sleep(0.001)
                temporary.write_text("whole")
            return task

        return work

    return begin


def run_in_group(folder: Path) -> int:
    """A process that leads a group of its own and shares work out without end; its number."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with terminated_as_interrupted():
            (folder / "begun").touch()
            list(shared_out(writer(folder), range(10**6), 2, method="fork"))
    except KeyboardInterrupt:
        code = 130
    finally:
        os._exit(code)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks into /proc")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("way", WAYS)
def test_whenever_a_signal_comes_nobody_and_nothing_half_written_is_left(
    way: str, tmp_path: Path
) -> None:
    chance = random.Random(way)
    for number in range(int(8 * TIMES)):
        folder = tmp_path / str(number)
        folder.mkdir()
        pid = run_in_group(folder)
        try:
            while not (folder / "begun").exists():
                time.sleep(0.001)
            time.sleep(chance.choice((0.0, 0.005, 0.02, 0.06)) * chance.random())
            for one in WAYS[way]:
                os.killpg(pid, one)
                time.sleep(chance.choice((0.0, 0.0, 0.0005, 0.003)))
            _, status = os.waitpid(pid, 0)
            assert os.waitstatus_to_exitcode(status) in (130, -signal.SIGINT, -signal.SIGTERM)
            assert nobody_in(pid), number
        finally:
            for left in in_group(pid):
                os.kill(left, signal.SIGKILL)
        assert list(folder.glob(".*.tmp")) == [], number
        assert {path.read_text() for path in folder.glob("*.txt")} <= {"whole"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_where_python_cannot_raise_comes_again(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    class Held:
        pass

    def gone(_: object) -> None:
        signal.raise_signal(number)
        time.sleep(0)

    held = [Held()]
    reference = weakref.ref(held[0], gone)

    def work() -> None:
        with terminated_as_interrupted():
            held.clear()
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reference() is None
    assert capfd.readouterr().err == ""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["two at once", "SIGTERM to all"])
def test_the_command_says_how_to_go_on_and_goes_on(
    way: str, digits_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    command: list[Any] = [sys.executable, "-m", "flexvar", "evaluate", "--model", digits_dir]
    command += ["--num", "2000", "--steps", "3", "--metrics", "none", "--processes", "2"]
    process, said = signalled(
        [*command, "--out", out],
        lambda: any((out / "images").glob("*.png")),
        WAYS[way],
        pause=0.02,
    )
    assert process.returncode == 130, said
    assert said.splitlines()[-1] == (
        "Stopped; the images made so far are kept. The same command goes on."
    )
    assert "Traceback" not in said
    assert nobody_in(process.pid)
    assert not list(out.rglob(".*.tmp"))
    assert json.loads((out / "run.json").read_text())["seed"] == 0
