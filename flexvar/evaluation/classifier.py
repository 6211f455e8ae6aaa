"""A small classifier, trained on the data itself, whose features compare pictures offline."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from flexvar.data import Dataset, batches
from flexvar.errors import FlexvarError
from flexvar.files import whole_file

WIDTHS = (32, 64, 96)
FEATURES = 64
# Means over quarters: digits and most photographs are not the same upside down.
POOLED = 2
# Larger pictures are made smaller first, so that training stays within a minute of one core.
MOST_SIDE = 64
BATCH, STEPS, RATE, WEIGHT_DECAY = 32, 400, 3e-3, 0.05
# Changes whenever what follows gives other weights, so that no old ones are found.
VERSION = 1


class Seen(NamedTuple):
    """What the classifier makes of N pictures: features (N,D) and logits (N,C), fp32 on the CPU."""

    features_ND: Tensor
    logits_NC: Tensor

    def accuracy(self, labels_N: Tensor) -> float:
        """Share of pictures whose likeliest class is the label."""
        return float((self.logits_NC.argmax(dim=1) == labels_N).double().mean())


class Classifier(nn.Module):
    """Three convolutions of stride 2, means over the quarters, `FEATURES` numbers, a head.

    GroupNorm, so that a picture's features do not depend on the batch it is in.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in WIDTHS:
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.GroupNorm(8, width)]
            layers.append(nn.ReLU())
            before = width
        self.body = nn.Sequential(*layers)
        self.features = nn.Linear(before * POOLED**2, FEATURES)
        self.head = nn.Linear(FEATURES, num_classes)

    def forward(self, image_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Features (B,D) and logits (B,C) of pictures in [-1,1], of any size from 8 px on."""
        small = _small(image_B3HW)
        pooled = F.adaptive_avg_pool2d(self.body(small), POOLED).flatten(1)
        features_BD = F.gelu(self.features(pooled))
        return features_BD, self.head(features_BD)

    @torch.inference_mode()
    def look(self, parts: Iterable[Tensor]) -> Seen:
        """Features and logits of pictures in [-1,1] that come in parts (B,3,H,W)."""
        device = self.head.weight.device
        seen = [self(part.to(device).float()) for part in parts]
        if not seen:
            raise FlexvarError("There is no picture to look at.")
        features, logits = (torch.cat(column).cpu() for column in zip(*seen, strict=True))
        return Seen(features, logits)


def classifier_for(
    dataset: Dataset,
    *,
    seed: int = 0,
    steps: int = STEPS,
    directory: str | Path | None = None,
) -> Classifier:
    """The classifier of a training set, in eval mode on the CPU; the same for the same seed.

    directory: where it is kept, and found again by a digest of the data, the seed and the steps.
    At 64 px it takes about half a minute of one core. Raises `FlexvarError` for a set of one
    class, or pictures below 8 px.
    """
    if dataset.num_classes < 2:
        raise FlexvarError(
            f"{dataset.config.source} has one class; the offline measures need a classifier, and "
            "that at least two."
        )
    if min(dataset.size) < 2 ** len(WIDTHS):
        raise FlexvarError(
            f"Pictures of {dataset.size[0]}x{dataset.size[1]} px are too small for the offline "
            f"measures; at least {2 ** len(WIDTHS)} px a side are needed."
        )
    key = {"version": VERSION, "data": dataset.fingerprint(), "seed": seed, "steps": steps}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    path = None if directory is None else Path(directory) / f"classifier-{digest}.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = Classifier(dataset.num_classes)
    if path is None or not _load(classifier, path):
        _train(classifier, dataset, seed, steps)
        if path is not None:
            with whole_file(path) as temporary:
                save_file(classifier.state_dict(), temporary)
    return classifier.eval().requires_grad_(False)


def _train(classifier: Classifier, dataset: Dataset, seed: int, steps: int) -> None:
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=max(steps, 2))
    classifier.train()
    for batch in islice(batches(dataset, batch_size=BATCH, seed=seed), steps):
        loss = F.cross_entropy(classifier(batch.images_B3HW)[1], batch.labels_B)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()


def _small(image_B3HW: Tensor) -> Tensor:
    height, width = image_B3HW.shape[-2:]
    longer = max(height, width)
    if longer <= MOST_SIDE:
        return image_B3HW
    size = [max(2 ** len(WIDTHS), round(side * MOST_SIDE / longer)) for side in (height, width)]
    return F.interpolate(image_B3HW, size=size, mode="bilinear", antialias=True)


def _load(classifier: Classifier, path: Path) -> bool:
    """Whether the weights were there. A file that is not whole counts as none."""
    if not path.is_file():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        classifier.load_state_dict(tensors)
    except (SafetensorError, RuntimeError, OSError):
        return False
    return True
