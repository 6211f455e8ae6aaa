"""Pictures to edit, and how close, how sure and how much better a result is."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from flexvar import Pipeline
from flexvar.data import DataConfig, open_data
from flexvar.metrics.picture import psnr

Samples = tuple[Tensor, list[int]]


def samples(config: DataConfig, split: Any, count: int) -> Samples:
    """Pictures (N,3,H,W) in [0,1] and their classes: at most so many, spread over the split."""
    dataset = open_data(config, split)
    wanted = min(count, len(dataset))
    found = [dataset[number * len(dataset) // wanted] for number in range(wanted)]
    return torch.stack([one.image_3HW for one in found]) / 2 + 0.5, [one.label for one in found]


def spread(given: Samples, count: int) -> Samples:
    """So many of the samples, spread over all."""
    total = len(given[1])
    chosen = sorted({number * total // count for number in range(min(count, total))})
    return given[0][chosen], [given[1][number] for number in chosen]


def decibels(a_B3HW: Tensor, b_B3HW: Tensor, where_HW: Tensor | None = None) -> list[float]:
    """PSNR in dB of each picture in [0,1], over all pixels or those of a mask."""
    pairs = (2 * one - 1 if where_HW is None else 2 * one[..., None, where_HW] - 1
             for one in (a_B3HW, b_B3HW))  # fmt: skip
    return [float(one) for one in psnr(*pairs)]


def against(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Paired difference: its mean, its standard error, and how often ours is higher."""
    gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
    spread_ = statistics.stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else 0.0
    return {
        "mean": round(statistics.mean(gaps), 3),
        "standard_error": round(spread_, 3),
        "share_better": round(sum(gap > 0 for gap in gaps) / len(gaps), 3),
    }


def accuracy(total_BN: Tensor, truth_B: Tensor) -> float:
    """Share of rows whose highest value stands at the true class."""
    return round(float((total_BN.argmax(dim=1) == truth_B).float().mean()), 4)


def classes(pipe: Pipeline, given: Samples) -> dict[str, Any]:
    """How often the likeliest class is the right one, by all scales and by the first k."""
    pictures, labels = given
    scores = pipe.score(list(pictures))
    truth = torch.tensor(labels)
    first = scores.nats_BNK.cumsum(dim=2)
    return {
        "crops": len(labels),
        "classes": pipe.model.num_classes,
        "accuracy": accuracy(scores.total_BN, truth),
        "accuracy_top5": round(
            float((scores.total_BN.topk(min(5, len(scores.labels))).indices == truth[:, None])
                  .any(1).float().mean()), 4,
        ),
        "accuracy_by_first_scales": [
            accuracy(first[..., k], truth) for k in range(first.shape[2])
        ],
        "chance": round(1 / pipe.model.num_classes, 4),
    }  # fmt: skip


def likeness(pipe: Pipeline, pictures: Tensor, labels: list[int]) -> dict[str, Any]:
    """Whether pictures look like their classes to the model's own score."""
    scores = pipe.score(list(pictures), size=pipe.size)
    truth = torch.tensor(labels)
    right = scores.probability_BN[torch.arange(len(labels)), truth]
    return {
        "accuracy": accuracy(scores.total_BN, truth),
        "mean_probability": round(float(right.mean()), 4),
        "nats_per_token": round(
            float(scores.total_BN[torch.arange(len(labels)), truth].mean())
            / scores.layout.tokens, 4,
        ),
    }  # fmt: skip
