"""What keeps samples of a model of emoji from being sharp: its tokenizer, or its predictions?

    python studies/emoji/limits.py emoji

Tokenizer: PSNR of drawings that it was and was not trained on, through its codes and, as if there
were no choice of codes, through its continuous latent. Model: of the drawings that it was trained
on, in their own colours, the share of true tokens that it finds likeliest at each scale, given the
true coarser ones.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import record
from flexvar import Pipeline
from flexvar.build import component
from flexvar.config import ComponentSpec
from flexvar.data import DataConfig, open_data, ordered_batches
from flexvar.data.emoji import drawings
from flexvar.images import to_tensor
from flexvar.metrics.picture import psnr
from flexvar.metrics.token_loss import scale_figures, token_losses

RESULTS = Path(__file__).parent / "limits.jsonl"
BATCH = 16


@torch.inference_mode()
def tokenizer_limits(pipe: Pipeline, split: str, count: int) -> dict[str, float]:
    """Mean PSNR in dB of drawings of a split, with and without the choice of codes."""
    tokenizer: Any = pipe.tokenizer
    data = open_data(DataConfig(source="emoji", size=128), split, augment=False)
    coded, continuous = [], []
    for batch in ordered_batches(data, batch_size=BATCH, limit=count):
        latent = tokenizer.features(batch.images_B3HW)
        code = tokenizer.lookup(tokenizer.nearest(latent))
        vectors = tokenizer.codebook.comparable(latent)
        for found, decoded in ((coded, code), (continuous, vectors)):
            found.append(psnr(tokenizer.decode(decoded), batch.images_B3HW))
    return {
        "drawings": len(torch.cat(coded)),
        "psnr": float(torch.cat(coded).mean()),
        "without_codes": float(torch.cat(continuous).mean()),
    }


@torch.inference_mode()
def model_limits(pipe: Pipeline) -> dict[str, Any]:
    """Loss in nats and share of true tokens found likeliest, of every scale and of all."""
    by_name = {one.name: one for one in drawings()}
    names, layout = list(pipe.class_names or by_name), pipe.layout()
    objective = component("objective", ComponentSpec(name="cross_entropy"), pipe.model.facts)
    rng = torch.Generator().manual_seed(0)
    sums: dict[str, float] = {}
    for start in range(0, len(names), BATCH):
        part = names[start : start + BATCH]
        image_B3HW = torch.stack([to_tensor(by_name[name].picture()) for name in part])
        latent = pipe.tokenizer.features(image_B3HW)
        pairs = objective.pairs(pipe.tokenizer, latent, layout, rng)
        logits = pipe.model(pipe.collate(part), pairs.inputs_BLC, layout)
        tokens = pairs.targets
        figures = scale_figures(token_losses(logits, tokens), logits, tokens, layout)
        for name, value in figures.items():
            sums[name] = sums.get(name, 0.0) + float(value) * len(part) / len(names)
    return {"drawings": len(names), **sums}


def main() -> None:
    """Print the figures, and keep them in limits.jsonl."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--images", type=int, default=186, help="of either split")
    options = parser.parse_args()
    pipe = Pipeline.from_pretrained(options.model)
    row: dict[str, Any] = {
        "study": "emoji-limits",
        "model": Path(options.model).name,
        "held_out": tokenizer_limits(pipe, "val", options.images),
        "trained": tokenizer_limits(pipe, "train", options.images),
        "tokens": model_limits(pipe),
    }
    print(json.dumps(row, indent=2))
    record.append(row, RESULTS)


if __name__ == "__main__":
    main()
