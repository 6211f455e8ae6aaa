"""Does training on pictures at their own shapes help at 1:2, against training on squares?

    python -m studies.buckets.measure runs/buckets

Pictures: handwritten digits of scikit-learn, one (1:1), two side by side (1:2) or two above each
other (2:1), of one class each. Two models of the same start see the same pictures for the same
number of steps, one in buckets, one as squares, cropped. Then both are asked for the
likelihood of 100 held-out pictures of 1:2 at 32x64 px. A row for each seed goes to results.jsonl.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits

from benchmarks.harness import record
from flexvar import Pipeline
from flexvar.config import parse
from flexvar.training import ModelRecipe, train

RESULTS = Path(__file__).parent / "results.jsonl"
SIDE, HELD_OUT, PER_SHAPE = 32, 400, 20
SHAPES = ("1x1", "1x2", "2x1")


def picture(digits: list[Any], shape: str) -> Image.Image:
    """One digit, or two side by side or above each other; each `SIDE` pixels."""
    large = [
        Image.fromarray((digit * (255 / 16)).round().astype(np.uint8)).resize(
            (SIDE, SIDE), Image.Resampling.BICUBIC
        )
        for digit in digits
    ]
    axis = {"1x1": 0, "1x2": 1, "2x1": 0}[shape]
    return Image.fromarray(np.concatenate([np.asarray(one) for one in large], axis))


def write(folder: Path) -> None:
    """FOLDER/train/CLASS and FOLDER/val/CLASS, the latter of other digits and 1:2 alone."""
    data = load_digits()
    rng = np.random.default_rng(0)
    border = len(data.target) - HELD_OUT
    for split, part, shapes, count in (
        ("train", slice(0, border), SHAPES, PER_SHAPE),
        ("val", slice(border, None), ("1x2",), 10),
    ):
        images, labels = data.images[part], data.target[part]
        for digit in range(10):
            own = images[labels == digit]
            place = folder / split / str(digit)
            place.mkdir(parents=True, exist_ok=True)
            for shape in shapes:
                for number in range(count):
                    chosen = own[rng.permutation(len(own))[: 1 if shape == "1x1" else 2]]
                    picture(list(chosen), shape).save(place / f"{shape}-{number:02}.png")


def recipe(folder: Path, out: Path, steps: int, seed: int, buckets: int | None) -> ModelRecipe:
    """A small model over the bundled tokenizer."""
    return parse(
        ModelRecipe,
        {
            "data": {"source": str(folder), "size": 48, "flip": False, "buckets": buckets},
            "tokenizer": "photos",
            "backbone": {"name": "transformer", "depth": 4, "width": 128, "num_heads": 2},
            "training_schedule": {"name": "random", "steps": 6},
            "steps": steps,
            "batch_size": 8,
            "seed": seed,
            "optimiser": {"learning_rate": 2e-3, "warmup": 0.05, "final": 0.02},
            "ema": 0.98,
            "validate_every": 0,
            "sample_every": 0,
            "save_every": steps,
            "out": str(out),
        },
    )


def loss(model: Path, folder: Path) -> float:
    """Nats per token of held-out pictures of 1:2 at 32x64 px, given their class."""
    pipe = Pipeline.from_pretrained(model)
    total, count = 0.0, 0
    for digit in range(10):
        files = sorted((folder / "val" / str(digit)).glob("*.png"))
        found = pipe.score([Image.open(f) for f in files], [str(digit)], size=(SIDE, 2 * SIDE))
        total -= float(found.nats_BNK.sum())
        count += len(files) * found.layout.tokens
    return total / count


def main() -> None:
    """Train both, and write a row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    folder = asked.out / "pictures"
    write(folder)
    row: dict[str, Any] = {"study": "buckets", "steps": asked.steps, "seed": asked.seed}
    for name, buckets in (("buckets", 8), ("squares", None)):
        place, start = asked.out / f"{name}-{asked.seed}", time.process_time()
        train(recipe(folder, place, asked.steps, asked.seed, buckets), device="cpu", say=print)
        row[name] = {
            "nats_per_token_at_1to2": round(loss(place, folder), 4),
            "cpu_seconds": round(time.process_time() - start, 1),
        }
        print(name, row[name], flush=True)
    record.append(row, RESULTS)


if __name__ == "__main__":
    main()
