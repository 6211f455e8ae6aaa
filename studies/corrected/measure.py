"""What self-correction changes: the loss of models whose context has more and more wrong bits.

python -m studies.corrected.measure runs/bits-plain runs/bits-model
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import record
from flexvar import Pipeline
from flexvar.build import component
from flexvar.config import ComponentSpec
from flexvar.data import DataConfig, open_data, ordered_batches
from flexvar.metrics.token_loss import token_losses

RESULTS = Path(__file__).parent / "results.jsonl"
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4)


@torch.inference_mode()
def losses(pipe: Pipeline, strength: float, images: int) -> float:
    """Mean nats of a token of held-out pictures; up to ``strength`` of the bits before it wrong.

    What is asked for are the bits that make the mistakes good.
    """
    spec = ComponentSpec(name="corrupted", strength=strength)
    objective = component("objective", spec, pipe.model.facts)
    data = open_data(DataConfig(source="emoji", size=pipe.size[0]), "val")
    source, found = torch.Generator().manual_seed(0), []
    for batch in ordered_batches(data, batch_size=8, limit=images):
        latent = pipe.tokenizer.features(batch.images_B3HW)
        pairs = objective.pairs(pipe.tokenizer, latent, pipe.layout(), source)
        prompts: Any = [data.class_names[number] for number in batch.labels_B.tolist()]
        logits = pipe.model(pipe.collate(prompts), pairs.inputs_BLC, pipe.layout())
        found.append(token_losses(logits, pairs.targets).mean(1))
    return float(torch.cat(found).mean())


def main() -> None:
    """A row for each model, a column for each share; kept in results.jsonl."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--images", type=int, default=128)
    given = parser.parse_args()
    print("| model |", *(f"{share:.0%} |" for share in SHARES))
    print("|---|", *("---|" for _ in SHARES))
    nats: dict[str, dict[str, float]] = {}
    for name in given.models:
        pipe = Pipeline.from_pretrained(name)
        found = {f"{share:.0%}": losses(pipe, share, given.images) for share in SHARES}
        print(f"| {name} |", *(f"{loss:.3f} |" for loss in found.values()), flush=True)
        nats[Path(name).name] = found
    row = {"study": "corrected", "images": given.images, "nats_per_token": nats}
    record.append(row, RESULTS)


if __name__ == "__main__":
    main()
