"""Processes fill a cache of latents together, without a collective that could give up."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from flexvar import Pipeline
from flexvar.data import open_data
from flexvar.training import latents


def test_two_processes_share_the_encoding(
    tmp_path: Path, trained_tokenizer: Path, model_recipe: Any
) -> None:
    tokenizer = Pipeline.from_pretrained(trained_tokenizer).tokenizer
    recipe = model_recipe(trained_tokenizer, None, batch_size=3)

    def fill(directory: Path, rank: int, world: int, barrier: Any) -> None:
        accelerator = SimpleNamespace(
            process_index=rank,
            num_processes=world,
            device=torch.device("cpu"),
            wait_for_everyone=barrier.wait,
        )
        own = open_data(recipe.data, "train")
        filling = latents._Filling(directory, {"a": 1}, own, tokenizer, recipe, 1)
        filling.count = 50  # enough to see, and no multiple of a batch
        filling.run(accelerator)  # type: ignore[arg-type]

    fill(tmp_path / "one", 0, 1, threading.Barrier(1))
    barrier = threading.Barrier(2)
    threads = [
        threading.Thread(target=fill, args=(tmp_path / "two", rank, 2, barrier)) for rank in (0, 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one, two = (latents.LatentCache(tmp_path / name) for name in ("one", "two"))
    np.testing.assert_array_equal(one.labels, two.labels)
    np.testing.assert_allclose(one.latents, two.latents, atol=1e-5)
    assert not list((tmp_path / "two").glob(".part*"))
