"""Runs that are killed at every change they make to a disk: ``killed.py DIRECTORY``.

A child per run, forked after the imports. The kill comes just before the n-th call that creates,
opens for writing, renames or removes something below the run's directory, which Python's audit
events tell of, whatever code makes it. Prints a line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from flexvar import Pipeline
from flexvar.config import parse
from flexvar.training import TokenizerRecipe, train
from flexvar.training.run import RunDirectory
from training.conftest import quiet, tokenizer_options

CHANGES = frozenset({"os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"})
OPTIONS: dict[str, Any] = {
    "steps": 3, "save_every": 1, "validate_every": 1, "keep": 1, "log_every": 1, "batch_size": 2,
    "validation_images": 2, "sample_every": 3,
}  # fmt: skip


def changes(event: str, arguments: tuple[Any, ...], directory: str) -> bool:
    """Whether an audit event is about to change something in a directory."""
    if event == "open":
        path, mode, flags = arguments
        writing = flags & (os.O_WRONLY | os.O_RDWR) if mode is None else set(mode or "") & set("wa")
        return bool(writing) and str(path).startswith(directory)
    return event in CHANGES and str(arguments[0]).startswith(directory)


def child(directory: Path, run: Callable[[], object], kill_at: int | None) -> tuple[bool, int]:
    """Whether a forked child came to its end, and how many changes it made until then."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        torch.set_num_threads(1)
        made = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal made
            if changes(event, arguments, str(directory)):
                made += 1
                os.write(writing, b".")
                if made == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        code = 1
        with contextlib.suppress(BaseException):
            run()
            code = 0
        os._exit(code)
    os.close(writing)
    seen = 0
    while part := os.read(reading, 4096):
        seen += len(part)
    os.close(reading)
    _, status = os.waitpid(pid, 0)
    assert status in (0, signal.SIGKILL), f"child ended with status {status}"
    return status == 0, seen


def outcome(directory: Path) -> dict[str, Any]:
    """What a finished run left, in a form that compares."""
    run = RunDirectory(directory)
    last = run.steps()[-1]
    state = run.load(last)
    Pipeline.from_pretrained(directory)
    lines = [json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines()]
    tensors = [
        *state["players"]["main"]["weights"].values(),
        *state["ema"].values(),
        *(v for s in state["players"]["main"]["optimiser"]["state"].values() for v in s.values()),
    ]
    return {
        "step": last,
        "state": b"".join(t.contiguous().numpy().tobytes() for t in tensors).hex(),
        "out": (directory / "tokenizer.safetensors").read_bytes().hex(),
        "best": run.best(),
        "losses": [line["loss"] for line in lines if line["kind"] == "train"],
        "psnr": [line["psnr"] for line in lines if line["kind"] == "validation"],
        "left": sorted(p.name for p in directory.rglob(".*.tmp")),
        "pictures": len(list(directory.glob("samples/*.png"))),
    }


def main() -> None:
    root = Path(sys.argv[1]).resolve()
    stride = int(sys.argv[2])

    def trained(directory: Path) -> Callable[[], object]:
        recipe = parse(TokenizerRecipe, tokenizer_options(directory, **OPTIONS))
        return lambda: train(recipe, resume=True, device="cpu", say=quiet)

    whole = root / "whole"
    done, count = child(whole, trained(whole), None)
    assert done
    expected, wrong, killed = outcome(whole), [], 0
    for point in range(1, count + 1, stride):
        again = root / f"killed-{point}"
        ended, _ = child(again, trained(again), point)
        assert not ended, f"was not killed at change {point} of {count}"
        killed += 1
        child(again, trained(again), None)
        found = outcome(again)
        wrong += [f"{point}: {key}" for key in expected if found[key] != expected[key]]
        shutil.rmtree(again)
    print(json.dumps({"changes": count, "killed": killed, "wrong": wrong}))


if __name__ == "__main__":
    main()
