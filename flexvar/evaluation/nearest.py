"""The training picture nearest to each sample: what was learnt by heart, and whether it is right.

Pictures are compared by features of EfficientNet-Lite0 (`flexvar.metrics.efficientnet`, extra
``metrics``), place by place on a coarse grid, so that no pixel has to fit.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from flexvar.data import Dataset, Key
from flexvar.errors import FlexvarError
from flexvar.images import to_tensor
from flexvar.metrics.efficientnet import efficientnet, unit

# Places along a side at which features are compared.
PLACES = 4
BATCH = 32


@dataclass(frozen=True)
class Gallery:
    """Training pictures and their descriptors.

    descriptors_ND: fp32, see `descriptors`. labels_N: class numbers. places: of each in the data
    set. typical: half of the pictures are nearer than that to another one of a different class.
    """

    dataset: Dataset
    descriptors_ND: Tensor
    labels_N: Tensor
    places: tuple[int, ...]
    typical: float

    def picture(self, index: int) -> Image.Image:
        """A training picture."""
        pixels = ((self.dataset[self.places[index]].image_3HW + 1) * 127.5).round().byte()
        return Image.fromarray(pixels.permute(1, 2, 0).numpy())


@dataclass(frozen=True)
class Found:
    """The nearest training pictures of samples: index (N,k) by rising distance (N,k)."""

    index_Nk: Tensor
    distance_Nk: Tensor


@torch.inference_mode()
def descriptors(parts: Iterable[Tensor]) -> Tensor:
    """Vectors (N,D) of pictures that come in parts (B,3,H,W) in [-1,1].

    Their squared distance is the mean, over layers and a grid of 4x4 places, of the squared
    difference of feature vectors of unit length: between 0 and 4.
    """
    network, rows = efficientnet(), []
    for images_B3HW in parts:
        maps = [F.adaptive_avg_pool2d(unit(m), PLACES) for m in network.maps(images_B3HW.cpu())]
        scale = (PLACES**2 * len(maps)) ** -0.5
        rows.append(torch.cat([m.flatten(1) for m in maps], dim=1) * scale)
    return torch.cat(rows)


@torch.inference_mode()
def pooled(parts: Iterable[Tensor]) -> Tensor:
    """EfficientNet's vectors (N,1280) of pictures that come in parts (B,3,H,W) in [-1,1]."""
    network = efficientnet()
    return torch.cat([network(images_B3HW.cpu()) for images_B3HW in parts])


def gallery(dataset: Dataset) -> Gallery:
    """The descriptors of a data set's samples; those that cannot be read are left out.

    Raises `FlexvarError` for shards, whose pictures cannot be looked up.
    """
    if dataset.streams:
        raise FlexvarError(
            f"nearest: {dataset.config.source} is read as a stream, in which no picture can be "
            "looked up; give the pictures as a folder (--reference FOLDER)."
        )
    places: list[int] = []
    labels: list[Tensor] = []

    def parts() -> Iterable[Tensor]:
        for start in range(0, len(dataset), BATCH):
            numbers = list(range(start, min(start + BATCH, len(dataset))))
            fetched = [dataset.fetch([Key(number) for number in numbers])]
            if len(fetched[0].labels_B) < len(numbers):
                fetched = [dataset.fetch([Key(number)]) for number in numbers]
                numbers = [n for n, one in zip(numbers, fetched, strict=True) if len(one.labels_B)]
            places.extend(numbers)
            labels.extend(one.labels_B for one in fetched)
            yield torch.cat([one.images_B3HW for one in fetched])

    descriptors_ND = descriptors(parts())
    labels_N = torch.cat(labels)
    distances_NN = torch.cdist(descriptors_ND, descriptors_ND).square()
    distances_NN[labels_N[:, None] == labels_N[None]] = torch.inf
    typical = float(distances_NN.amin(dim=1).median())
    return Gallery(dataset, descriptors_ND, labels_N, tuple(places), typical)


def nearest(descriptors_ND: Tensor, known: Gallery, count: int = 5) -> Found:
    """The ``count`` nearest training pictures of every sample."""
    distances_NM = torch.cdist(descriptors_ND, known.descriptors_ND).square()
    values, index = distances_NM.topk(min(count, len(known.labels_N)), largest=False)
    return Found(index, values)


def nearest_figures(found: Found, known: Gallery, labels_N: Tensor) -> dict[str, float]:
    """How near samples are to training pictures, and how often the nearest one is as asked.

    distance: median of the squared distance to the nearest. typical: the same between training
    pictures of different classes. closer: share of samples nearer to a training picture than
    that, which is what learning by heart looks like. top1, top5: share of samples whose class
    is that of the nearest, or of one of the five nearest.
    """
    right_Nk = known.labels_N[found.index_Nk] == labels_N[:, None]
    nearest_N = found.distance_Nk[:, 0]
    return {
        "distance": float(nearest_N.median()),
        "typical": known.typical,
        "closer": float((nearest_N < known.typical).float().mean()),
        "top1": float(right_Nk[:, 0].float().mean()),
        f"top{right_Nk.shape[1]}": float(right_Nk.any(dim=1).float().mean()),
    }


def pairs_sheet(
    samples: Sequence[Image.Image], found: Found, known: Gallery, *, columns: int = 10
) -> Image.Image:
    """Samples, each with its nearest training picture below it, on white."""
    height, width = samples[0].height, samples[0].width
    gap, rows = 4, -(-len(samples) // columns)
    sheet = Image.new(
        "RGB", (columns * (width + gap) - gap, rows * (2 * height + 3 * gap) - gap), "white"
    )
    for number, sample in enumerate(samples):
        row, column = divmod(number, columns)
        left, top = column * (width + gap), row * (2 * height + 3 * gap)
        sheet.paste(sample.convert("RGB"), (left, top))
        real = known.picture(int(found.index_Nk[number, 0]))
        sheet.paste(real.resize((width, height)), (left, top + height + gap))
    return sheet


def pictures(images: Iterable[Image.Image]) -> Iterable[Tensor]:
    """Pictures of one size in parts (B,3,H,W) in [-1,1]."""
    waiting: list[Tensor] = []
    for image in images:
        waiting.append(to_tensor(image.convert("RGB")))
        if len(waiting) == BATCH:
            yield torch.stack(waiting)
            waiting = []
    if waiting:
        yield torch.stack(waiting)
