"""Two processes (gloo) do what one does with the doubled batch; FSDP really shards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flexvar import FlexvarError
from flexvar.training import train

from .conftest import quiet

WORKER = Path(__file__).with_name("worker.py")


def launch(processes: int, *words: object, fsdp: bool = False) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if fsdp:  # as `accelerate launch --use_fsdp --fsdp_version 2 --mixed_precision bf16` does
        environment |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
        environment |= {"ACCELERATE_MIXED_PRECISION": "bf16"} if "bf16" in words else {}
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [*start, str(WORKER), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


def curve(directory: Path, name: str = "loss") -> list[float]:
    lines = (json.loads(line) for line in (directory / "log.jsonl").read_text().splitlines())
    return [line[name] for line in lines if line["kind"] == "train"]


def facts(report: Path, rank: int) -> dict[str, Any]:
    return json.loads(Path(f"{report}.{rank}").read_text())


def really_two(ranks: list[dict[str, Any]]) -> None:
    """accelerate goes on alone in some set-ups: what torch and the system know counts."""
    assert [rank["processes"] for rank in ranks] == [2, 2]
    assert [rank["world"] for rank in ranks] == [2, 2]
    assert [rank["backend"] for rank in ranks] == ["gloo", "gloo"]
    assert len({rank["pid"] for rank in ranks}) == 2


@pytest.mark.slow
def test_two_processes_train_a_tokenizer_as_one_does(tmp_path: Path) -> None:
    launch(1, "tokenizer", tmp_path / "one", 8, tmp_path / "report1")
    launch(2, "tokenizer", tmp_path / "two", 4, tmp_path / "report2")
    assert curve(tmp_path / "two") == pytest.approx(curve(tmp_path / "one"), rel=1e-4)
    assert curve(tmp_path / "two", "usage") == pytest.approx(curve(tmp_path / "one", "usage"))
    ranks = [facts(tmp_path / "report2", rank) for rank in (0, 1)]
    really_two(ranks)
    assert ranks[0]["wrapper"] == "DistributedDataParallel"
    assert ranks[0]["codes"] == ranks[1]["codes"]
    assert ranks[0]["use"] == ranks[1]["use"]
    assert facts(tmp_path / "report1", 0)["processes"] == 1


@pytest.mark.slow
def test_two_processes_train_a_model_as_one_does_sharded_too(
    tmp_path: Path, trained_tokenizer: Path
) -> None:
    launch(1, "model", tmp_path / "one", 8, tmp_path / "report1", trained_tokenizer)
    launch(2, "model", tmp_path / "two", 4, tmp_path / "report2", trained_tokenizer)
    sharded = ("model", tmp_path / "three", 4, tmp_path / "report3", trained_tokenizer)
    launch(2, *sharded, "stop", fsdp=True)
    launch(2, *sharded, fsdp=True)  # goes on after step 3
    expected = pytest.approx(curve(tmp_path / "one"), rel=1e-4)
    assert curve(tmp_path / "two") == expected
    assert curve(tmp_path / "three") == expected
    really_two([facts(tmp_path / "report2", rank) for rank in (0, 1)])
    shards = [facts(tmp_path / "report3", rank) for rank in (0, 1)]
    really_two(shards)
    # Every element is on one rank.
    assert sum(found["held"] for found in shards) == shards[0]["parameters"]
    for found in shards:
        assert found["wrapper"].startswith("FSDP")
        assert found["sharded"] > 0.8 * found["tensors"]  # some have a single row
        assert 0.4 < found["held"] / found["parameters"] < 0.6
    assert facts(tmp_path / "report2", 0)["sharded"] == 0
    assert facts(tmp_path / "report2", 0)["held"] == facts(tmp_path / "report2", 0)["parameters"]


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["transformer", "mamba"])
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 1e-2)])
def test_every_block_is_sharded_and_training_is_that_of_one_process(
    tmp_path: Path, trained_tokenizer: Path, backbone: str, precision: str, tolerance: float
) -> None:
    words = (trained_tokenizer, backbone, precision)
    launch(1, "model", tmp_path / "one", 8, tmp_path / "report1", *words)
    launch(2, "model", tmp_path / "two", 4, tmp_path / "report2", *words, fsdp=True)
    assert curve(tmp_path / "two") == pytest.approx(curve(tmp_path / "one"), rel=tolerance)
    ranks = [facts(tmp_path / "report2", rank) for rank in (0, 1)]
    really_two(ranks)
    for found in ranks:
        assert found["blocks"] == found["sharded_blocks"] == 2
        assert found["dtypes"] == ["torch.float32"]
        # accelerate's own policy would make all of these bf16.
        exact = {"logits": "torch.float32", "loss": "torch.float32"}
        if backbone == "mamba":
            exact |= dict.fromkeys(("dt_BLH", "rate_H", "skip_H"), "torch.float32")
        assert dict(text.split() for text in found["exact"]) == exact
        assert found["held"] < 0.6 * found["parameters"]


def test_a_sharded_tokenizer_is_refused(
    tmp_path: Path, tokenizer_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(FlexvarError, match="stage 1 without FSDP"):
        train(tokenizer_recipe(tmp_path), device="cpu", say=quiet)


def test_processes_that_do_not_find_each_other_are_an_error(
    tmp_path: Path, tokenizer_recipe: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")  # as a launcher sets it, without the rest
    with pytest.raises((FlexvarError, ValueError), match=r"2 processes were launched|environment"):
        train(tokenizer_recipe(tmp_path), device="cpu", say=quiet)
