"""A model learns one batch by heart and gives its tokens back."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from flexvar import Pipeline
from flexvar.config import parse
from flexvar.data import DataConfig, ordered_batches
from flexvar.data.dataset import open_data
from flexvar.layout import Layout
from flexvar.training import ModelRecipe, train

from .conftest import model_options, quiet


def test_one_batch_is_learnt_and_given_back_greedily(
    tmp_path: Path, trained_tokenizer: Path
) -> None:
    # A picture per class, and no crop or mirror that could tell two of its samples apart.
    pictures = tmp_path / "pictures"
    for number, name in enumerate("abcd"):
        (pictures / "train" / name).mkdir(parents=True)
        noise = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).save(pictures / "train" / name / "0.png")
    (pictures / "val").symlink_to(pictures / "train")
    data = {"source": str(pictures), "size": 16, "resize": 1, "flip": False}
    options = model_options(
        trained_tokenizer, tmp_path / "run", data=data, steps=250, condition_dropout=0.0, ema=0,
        training_schedule="ladder", log_every=25,
        backbone={"name": "transformer", "depth": 2, "width": 64, "num_heads": 2},
        optimiser={"learning_rate": 4e-3, "warmup": 0.05, "flat": 0.5, "weight_decay": 0.0},
    )  # fmt: skip
    figures = train(parse(ModelRecipe, options), device="cpu", say=quiet)
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().split("\n")
             if line]  # fmt: skip
    losses = [line["loss"] for line in lines if line["kind"] == "train"]
    assert losses[0] > 1
    assert losses[-1] < 0.02
    assert figures["accuracy"] == 1

    pipe = Pipeline.from_pretrained(tmp_path / "run", device="cpu")
    dataset = open_data(parse(DataConfig, data), "val")
    batch = next(ordered_batches(dataset, batch_size=4))
    assert batch.labels_B.tolist() == [0, 1, 2, 3]
    made = pipe(labels=["a", "b", "c", "d"], top_k=1, guidance=0, seed=5, progress=False)
    with torch.inference_mode():
        layout = Layout.of(*(tuple(m.shape[1:]) for m in made.maps))
        true = pipe.tokenizer.encode(batch.images_B3HW, layout)
    assert [m.shape for m in made.maps] == [t.shape for t in true]
    assert all(torch.equal(m, t) for m, t in zip(made.maps, true, strict=True))
    # Four pictures, not one four times.
    assert len({tuple(row.tolist()) for row in true[-1].flatten(1)}) == 4
