"""How good samples are: `flexvar.evaluation`'s offline figures, with one classifier per set.

Losses of models over different tokenizers cannot be compared; samples can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from flexvar import Pipeline
from flexvar.data import DataConfig
from flexvar.evaluation import offline
from studies.ablation import trained
from studies.ablation.trained import Place

BATCH = 64


def against(data: Mapping[str, Any], place: Place, count: int) -> offline.Reference:
    """The classifier of a set and ``count`` real pictures of each class, the same for every seed.

    It is the measure, not what is measured.
    """
    config = DataConfig.model_validate(dict(data))
    directory, steps = place.root / "classifiers", place.budget.classifier_steps
    with trained.locked(directory / f"{config.source}-{steps}"):
        return offline.reference(config, count, directory=directory, classifier_steps=steps)


def samples(
    pipe: Pipeline, count: int, seed: int, steps: Sequence[int] | int
) -> tuple[Tensor, Tensor]:
    """``count`` pictures (N,3,H,W) in [-1,1] of every class, class by class, and their labels.

    In whole steps of 1/255, as if they had been in files.
    """
    labels = list(range(pipe.model.num_classes))
    made = pipe(
        labels, num=count, steps=steps, seed=seed, output="tensor", progress=False,
        images_per_call=BATCH,
    ).images  # fmt: skip
    assert isinstance(made, Tensor)
    pictures = made.cpu().mul(255).round().div(127.5).sub(1)
    return pictures, torch.tensor(labels).repeat_interleave(count)


def figures(real: offline.Reference, images_B3HW: Tensor, labels_B: Tensor) -> dict[str, float]:
    """See `flexvar.evaluation.offline.sample_figures`."""
    return offline.sample_figures(real, images_B3HW.split(BATCH), labels_B)
