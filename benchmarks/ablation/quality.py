"""How good samples are, without a download: by a small classifier trained on the set itself.

Losses of models over different tokenizers cannot be compared; samples can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexvar import Pipeline
from flexvar.data import DataConfig, Dataset, batches, open_data, ordered_batches

FEATURES = 48
BATCH = 64


class Classifier(nn.Module):
    """Class logits of pictures in [-1,1], and the features before them."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        widths = (3, 16, 32, FEATURES)
        self.layers = nn.Sequential(
            *(
                nn.Sequential(
                    nn.Conv2d(a, b, 3, padding=1), nn.GroupNorm(4, b), nn.SiLU(), nn.AvgPool2d(2)
                )
                for a, b in pairwise(widths)
            )
        )
        self.mixed = nn.Conv2d(FEATURES, FEATURES, 3, padding=1)
        self.head = nn.Linear(FEATURES, classes)

    def features(self, images_B3HW: Tensor) -> Tensor:
        """(B,48), averaged over the picture."""
        return F.silu(self.mixed(self.layers(images_B3HW))).mean(dim=(2, 3))

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Logits (B, classes)."""
        return self.head(self.features(images_B3HW))


@dataclass(frozen=True, slots=True)
class Judge:
    """A trained classifier, and the features of real training and held-out pictures."""

    classifier: Classifier
    real_NF: np.ndarray
    held_out: dict[str, float]
    validation_B3HW: Tensor
    labels_B: Tensor

    def figures(self, images_B3HW: Tensor, labels_B: Tensor) -> dict[str, float]:
        """Share recognised as their class in [0,1], and Fréchet distance to training pictures.

        images_B3HW: in [-1,1].
        """
        return _figures(self.classifier, self.real_NF, images_B3HW, labels_B)


def judge(data: DataConfig, steps: int, seed: int, file: Path, real: int) -> Judge:
    """The classifier of a set, from ``file`` or trained now and written there.

    real: training pictures behind the features that samples are compared with, at most.
    """
    training, held_out = open_data(data), open_data(data, "val")
    classifier = Classifier(training.num_classes)
    if file.is_file():
        classifier.load_state_dict(torch.load(file, weights_only=True))
    else:
        torch.manual_seed(seed)
        classifier = _fit(Classifier(training.num_classes), training, steps, seed)
        temporary = file.with_name(f".{file.name}.tmp")
        temporary.parent.mkdir(parents=True, exist_ok=True)
        torch.save(classifier.state_dict(), temporary)
        temporary.replace(file)
    classifier.eval()
    count, features = min(len(training), real), []
    for batch in batches(training, batch_size=BATCH, seed=seed + 1):
        features.append(_features(classifier, batch.images_B3HW))
        if len(features) * BATCH >= count:
            break
    real_NF = np.concatenate(features)
    held = list(ordered_batches(held_out, batch_size=BATCH, limit=500))
    images = torch.cat([batch.images_B3HW for batch in held])
    labels = torch.cat([batch.labels_B for batch in held])
    own = _figures(classifier, real_NF, images, labels)
    return Judge(classifier, real_NF, own, images, labels)


def samples(
    pipe: Pipeline, count: int, seed: int, steps: Sequence[int] | int
) -> tuple[Tensor, Tensor]:
    """``count`` pictures (N,3,H,W) in [-1,1] of every class, class by class, and their labels."""
    labels = list(range(pipe.model.num_classes))
    made = pipe(
        labels, num=count, steps=steps, seed=seed, output="tensor", progress=False,
        images_per_call=BATCH,
    ).images  # fmt: skip
    assert isinstance(made, Tensor)
    return made.cpu() * 2 - 1, torch.tensor(labels).repeat_interleave(count)


def frechet(a_NF: np.ndarray, b_NF: np.ndarray) -> float:
    """Fréchet distance between the Gaussians of two sets of features."""
    from scipy.linalg import sqrtm

    difference = a_NF.mean(axis=0) - b_NF.mean(axis=0)
    first, second = (np.cov(x.astype(np.float64), rowvar=False) for x in (a_NF, b_NF))
    root = np.real(sqrtm(first @ second))
    return float(difference @ difference + np.trace(first + second - 2 * root))


def _figures(
    classifier: Classifier, real_NF: np.ndarray, images_B3HW: Tensor, labels_B: Tensor
) -> dict[str, float]:
    features = _features(classifier, images_B3HW)
    with torch.inference_mode():
        best_B = classifier.head(torch.from_numpy(features)).argmax(dim=1)
    return {
        "recognised": float((best_B == labels_B).float().mean()),
        "frechet": frechet(features, real_NF),
        "pictures": len(labels_B),
    }


@torch.inference_mode()
def _features(classifier: Classifier, images_B3HW: Tensor) -> np.ndarray:
    return torch.cat([classifier.features(x) for x in images_B3HW.split(BATCH)]).numpy()


def _fit(classifier: Classifier, training: Dataset, steps: int, seed: int) -> Classifier:
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    stream = batches(training, batch_size=BATCH, seed=seed)
    for _, batch in zip(range(steps), stream, strict=False):
        # Noise, so that it does not look at what no picture is recognised by.
        images = batch.images_B3HW + 0.1 * torch.randn_like(batch.images_B3HW)
        loss = F.cross_entropy(classifier(images), batch.labels_B, label_smoothing=0.05)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return classifier
