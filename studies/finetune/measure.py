"""Fine-tune a bundled model on three new classes of 60 pictures, by LoRA too, and from scratch.

    python -m studies.finetune.measure runs/finetune

Each run is the command that docs/finetune.md names, in a process of its own; its processor time
is taken, as a wall clock says nothing on a busy machine. Then `flexvar evaluate` asks the offline
classifier what the samples show. A row goes to results.jsonl.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.harness import record
from flexvar import Pipeline
from flexvar.adapters import load_adapter
from studies.finetune.pictures import write

RESULTS = Path(__file__).parent / "results.jsonl"
RUNS: dict[str, list[str]] = {
    "finetune": ["finetune"],
    "lora": ["finetune", "lora.rank=8"],
    # The recipe of the base model, at its own learning rate, on the same crops.
    "scratch": ["photos", "data.crop=random", "tokenizer=photos", "batch_size=8", "precision=fp32",
                "ema=0.99", "validate_every=100", "sample_every=300"],
}  # fmt: skip


def run(*words: str) -> float:
    """Run a command of flexvar in one thread; its processor seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    one = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "flexvar", *words], check=True, env=one)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def held_out(out: Path) -> dict[str, float]:
    """Step -> loss on held-out pictures, nats per token."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return {
        str(one["step"]): one["validation_loss"] for one in lines if one["kind"] == "validation"
    }


def evaluated(model: Path, num: int, guidance: int | None = None) -> dict[str, float]:
    """What the offline classifier says of samples, with the preset or with constant guidance."""
    out = model / f"evaluated-{guidance or 'preset'}"
    options = [] if guidance is None else ["--guidance", str(guidance)]
    options += [] if guidance is None else ["--guidance-schedule", "constant"]
    run("evaluate", "--model", str(model), "--num", str(num), "--metrics", "offline",
        "--seed", "0", "--out", str(out), *options)  # fmt: skip
    figures = json.loads((out / "results.json").read_text())["figures"]["offline"]
    return {name: value for name, value in figures.items() if isinstance(value, int | float)}


def main() -> None:
    """Train, evaluate, write a row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--num", type=int, default=20, help="samples of each class")
    asked = parser.parse_args()
    pictures = asked.out / "pictures"
    write(pictures)
    row: dict[str, Any] = {"study": "finetune", "steps": asked.steps}
    for name, words in RUNS.items():
        out = asked.out / name
        options = [f"data={pictures}", f"out={out}", f"steps={asked.steps}"]
        seconds = run("train", "model", *words, *options)
        row[name] = {"cpu_seconds": round(seconds, 1), "held_out": held_out(out)}
        row[name]["cpu_seconds_per_step"] = round(seconds / asked.steps, 2)
        row[name] |= evaluated(out, asked.num)
        row[name]["by_guidance"] = {
            f"{guidance} constant": evaluated(out, asked.num, guidance) for guidance in (3, 6)
        }
        if (out / "adapter").is_dir():
            whole = sum(p.numel() for p in Pipeline.from_pretrained(out).model.parameters())
            own = load_adapter(out / "adapter").parameters
            row[name] |= {"parameters": own, "share": round(own / whole, 4)}
        print(name, row[name], flush=True)
    record.append(row, RESULTS)


if __name__ == "__main__":
    main()
