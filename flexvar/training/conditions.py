"""What training pictures are of, as their model's conditioner takes it: labels, captions, pictures.

Which of its captions a picture gets, and which pictures are trained on without any condition,
depends on the seed and the step alone, and not on the number of processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flexvar.components import Conditioner
from flexvar.components.conditioner import each, takes
from flexvar.data import Batch
from flexvar.errors import FlexvarError


def values(
    conditioner: Conditioner,
    batch: Batch,
    class_names: Sequence[str] | None,
    chosen_B: Tensor | None = None,
) -> list[Any]:
    """One value per picture of a batch for `Conditioner.collate`.

    A picture without captions is called by its class. chosen_B: numbers in [0,1), which of its
    captions each picture gets; the first unless given.
    """
    kind = takes(conditioner)
    if kind == "nothing":
        return [None] * len(batch.labels_B)
    if kind == "image":
        return list(batch.images_B3HW.cpu() / 2 + 0.5)
    labels = batch.labels_B.tolist()
    if kind != "prompt":
        return labels
    captions = batch.captions or [()] * len(labels)
    numbers = [0.0] * len(labels) if chosen_B is None else chosen_B.tolist()
    found = []
    for label, own, number in zip(labels, captions, numbers, strict=True):
        called = own or (() if class_names is None else (class_names[label],))
        if not called:
            raise FlexvarError(
                "The conditioner takes words, but the data has neither captions nor class names. "
                "Put x.txt beside x.png, or a captions.jsonl into the folder."
            )
        found.append(called[int(number * len(called))])
    return found


def drop(conditioner: Conditioner, inputs: Any, dropped_B: Tensor) -> Any:
    """Inputs of a conditioner with no condition where ``dropped_B`` (bool) is true."""

    def choose(own: Tensor, null: Tensor) -> Tensor:
        return torch.where(dropped_B.view(-1, *[1] * (own.ndim - 1)), null, own)

    return each(choose, inputs, conditioner.null(inputs))


def numbers(seed: int, size: int, rank: int, world: int) -> Tensor:
    """Numbers (size,) in [0,1) of one process, fp32: a part of those of all processes."""
    source = torch.Generator("cpu").manual_seed(seed)
    return torch.rand(size * world, generator=source, dtype=torch.float32, device="cpu")[
        rank * size : (rank + 1) * size
    ]
