"""Figures that need no download: samples, real crops and reconstructions, seen by a classifier."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flexvar.data import DataConfig, Dataset, Key, open_data, ordered_batches
from flexvar.data.sampler import shuffled
from flexvar.errors import FlexvarError
from flexvar.evaluation.classifier import STEPS, Classifier, Seen, classifier_for
from flexvar.metrics.distances import frechet_distance, precision_recall, statistics
from flexvar.pipeline import Pipeline
from flexvar.resolve import Steps

BATCH = 32
# Of a class, so that a half of them still has four: k = 3 neighbours and the picture itself.
LEAST_REAL = 2
# Held-out pictures that reconstructions are compared on.
MOST_HELD_OUT = 512


class Real(NamedTuple):
    """Real pictures (N,3,H,W) fp32 in [-1,1], their class numbers (N,), equally many per class."""

    images_N3HW: Tensor
    labels_N: Tensor


@dataclasses.dataclass(frozen=True)
class Reference:
    """What samples are held against: a classifier, and two halves of real pictures.

    The halves share no picture (of `photos`: no crop). seen: what the classifier makes of each.
    held_out: its accuracy on the validation split, None where there is none.
    """

    classifier: Classifier
    train: Dataset
    halves: tuple[Seen, Seen]
    labels_N: Tensor
    held_out: float | None


def offline_figures(
    pipe: Pipeline,
    data: DataConfig | str,
    *,
    num: int,
    seed: int = 0,
    directory: str | Path | None = None,
    steps: Steps | None = None,
    classifier_steps: int = STEPS,
    **sampling: Any,
) -> dict[str, float]:
    """Quality of a pipeline's samples without any download: ``num`` images per class.

    data: the set that the model was trained on, seen at the samples' size. seed: of
    the samples; image i is of class i mod num_classes and has the key (seed, i). directory:
    where the classifier is kept. steps and sampling (``size``, ``guidance``, ``top_k`` ...): as in
    a call of the pipeline. The figures are those of `sample_figures`.
    Raises `FlexvarError` for data whose classes are not the model's.
    """
    if num < 1:
        raise FlexvarError(f"num: got {num}; expected at least 1 image per class.")
    any_size = bool(sampling.get("any_size"))
    last = pipe.layout(sampling.get("size"), steps, warn=False, any_size=any_size).last
    stride = pipe.tokenizer.space.stride
    size = (last.h * stride, last.w * stride)
    against = reference(
        config_for(pipe, data, size), num, directory=directory, classifier_steps=classifier_steps
    )
    check_classes(pipe, against.train)
    classes = pipe.model.num_classes
    labels_N = torch.arange(num * classes) % classes

    def parts() -> Iterator[Tensor]:
        for start in range(0, len(labels_N), BATCH):
            part = labels_N[start : start + BATCH].tolist()
            made = pipe(
                part,
                steps=steps,
                seed=seed,
                first_index=start,
                output="tensor",
                progress=False,
                **sampling,
            )
            # As if they had been in files.
            yield made.images.mul(255).round().div(127.5).sub(1)

    return sample_figures(against, parts(), labels_N)


def sample_figures(
    against: Reference, samples: Iterable[Tensor], labels_N: Tensor
) -> dict[str, float]:
    """Figures of samples in [-1,1] that come in parts (B,3,H,W), beside those of real pictures.

    accuracy: share of samples that the classifier takes for what they should be; accuracy_real:
    the same of real training crops; accuracy_held_out: of the validation split, where there is
    one. frechet, precision, recall: of the classifier's features, samples against the first half
    of the real pictures; ..._real: the other half against the first, the best to hope for.
    """
    first, other = against.halves
    seen = against.classifier.look(samples)
    figures = {
        "samples": float(len(labels_N)),
        "real": float(len(against.labels_N)),
        "accuracy": seen.accuracy(labels_N),
        "accuracy_real": other.accuracy(against.labels_N),
    }
    if against.held_out is not None:
        figures["accuracy_held_out"] = against.held_out
    for suffix, one in (("", seen), ("_real", other)):
        figures[f"frechet{suffix}"] = frechet_distance(
            statistics(one.features_ND), statistics(first.features_ND)
        )
        coverage = precision_recall(one.features_ND, first.features_ND)
        figures[f"precision{suffix}"] = coverage.precision
        figures[f"recall{suffix}"] = coverage.recall
    return figures


def reconstruction_figures(
    pipe: Pipeline, against: Reference, limit: int = MOST_HELD_OUT
) -> dict[str, float]:
    """What the tokenizer loses of held-out pictures, whole ones seen through and back.

    rfid_offline: Fréchet distance of the classifier's features between pictures and their
    reconstructions; accuracy_reconstructed: of the classifier on those, beside the pictures' own
    accuracy_held_out. psnr (dB), ssim, usage, perplexity: of
    `flexvar.training.figures.tokenizer_figures`, after the last scale.
    Raises `FlexvarError` for data without a validation split.
    """
    from flexvar.training.figures import tokenizer_figures

    held = open_data(against.train.config, "val")
    batches = list(ordered_batches(held, batch_size=BATCH, limit=limit))
    if not batches:
        raise FlexvarError(f"{held.config.source}: no validation picture can be read.")
    labels_N = torch.cat([batch.labels_B for batch in batches])
    real = [batch.images_B3HW for batch in batches]
    # Clamped by `reconstruct`, and to whole steps as in a file.
    back = (
        pipe.reconstruct(part / 2 + 0.5, output="tensor").mul(255).round().div(127.5).sub(1)
        for part in real
    )
    seen, again = against.classifier.look(real), against.classifier.look(back)
    # At their own size: grids of another shape would squeeze the pictures before comparing.
    figures = tokenizer_figures(pipe, real, size=held.size)
    last = str(pipe.layout(held.size, warn=False).last)
    kept = {"psnr": "psnr", f"ssim/{last}": "ssim", "usage": "usage", "perplexity": "perplexity"}
    return {
        "pictures": float(len(labels_N)),
        "rfid_offline": frechet_distance(
            statistics(again.features_ND), statistics(seen.features_ND)
        ),
        "accuracy_held_out": seen.accuracy(labels_N),
        "accuracy_reconstructed": again.accuracy(labels_N),
        **{name: figures[key] for key, name in kept.items() if key in figures},
    }


def reference(
    config: DataConfig,
    num: int,
    *,
    seed: int = 0,
    directory: str | Path | None = None,
    classifier_steps: int = STEPS,
) -> Reference:
    """The classifier of a set and two halves of real training pictures, ``num`` per class each.

    Of a set with fewer pictures each half takes what there is. seed: of the classifier and of
    the choice of pictures; not that of the samples, so that all runs are held against the same.
    Raises `FlexvarError` for a set that is too small.
    """
    train = open_data(config, "train")
    real = real_pictures(train, 2 * num, seed=seed)
    classifier = classifier_for(train, seed=seed, steps=classifier_steps, directory=directory)
    halves = []
    for part in (0, 1):
        images_N3HW = real.images_N3HW[part::2]
        halves.append(classifier.look(images_N3HW.split(BATCH)))
    try:
        held = open_data(config, "val")
    except FlexvarError:
        accuracy = None
    else:
        batches = list(ordered_batches(held, batch_size=BATCH, limit=MOST_HELD_OUT))
        seen = classifier.look(batch.images_B3HW for batch in batches)
        accuracy = seen.accuracy(torch.cat([batch.labels_B for batch in batches]))
    first, other = halves
    return Reference(classifier, train, (first, other), real.labels_N[0::2], accuracy)


def real_pictures(train: Dataset, most: int, *, seed: int = 0) -> Real:
    """An even number of real pictures per class, at most ``most``, as many of each as of others.

    Of a set where every picture stands for many samples (`photos`) they are random crops, else
    each picture's middle, once. Those of a class follow each other.
    Raises `FlexvarError` where a class has fewer than two.
    """
    crops = train.repeats > 1
    dataset = train if crops else open_data(train.config, "train", augment=False)
    found: dict[int, list[Tensor]] = {label: [] for label in range(train.num_classes)}
    for images_B3HW, labels_B in _in_order(dataset, most, seed, crops):
        for image_3HW, label in zip(images_B3HW, labels_B.tolist(), strict=True):
            if len(found[label]) < most:
                found[label].append(image_3HW)
    fewest = min(found, key=lambda label: len(found[label]))
    each = len(found[fewest]) // 2 * 2
    if each < LEAST_REAL or each * len(found) < 8:
        raise FlexvarError(
            f"{train.config.source} has too few pictures to compare with: class "
            f"{train.class_names[fewest]!r} has {len(found[fewest])} that can be read. At least "
            f"{LEAST_REAL} per class and 8 in all are needed; add some, or leave classes out."
        )
    images_N3HW = torch.stack([image for part in found.values() for image in part[:each]])
    return Real(images_N3HW, torch.arange(len(found)).repeat_interleave(each))


def _in_order(
    dataset: Dataset, most: int, seed: int, crops: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches in a random order that the seed determines, until each class may have enough."""
    if dataset.streams:
        for batch in ordered_batches(dataset, batch_size=BATCH):
            yield batch.images_B3HW, batch.labels_B
        return
    keys: list[Key] = []
    left = dict.fromkeys(range(dataset.num_classes), most)
    for epoch in count():
        for number in shuffled(len(dataset), seed, epoch):
            label = dataset.label(int(number))
            if left[label] > 0:
                left[label] -= 1
                keys.append(Key(int(number), epoch, seed))
        if not crops or not any(left.values()):
            break
    for start in range(0, len(keys), BATCH):
        fetched = dataset.fetch(keys[start : start + BATCH])
        dataset.note(fetched)
        yield fetched.images_B3HW, fetched.labels_B


def config_for(pipe: Pipeline, data: DataConfig | str, size: tuple[int, int]) -> DataConfig:
    """A source at a size in pixels, with the pipeline's classes where it names them."""
    config = DataConfig(source=data) if isinstance(data, str) else data
    changes: dict[str, Any] = {"size": size}
    if config.classes is None and pipe.class_names is not None:
        changes["classes"] = pipe.class_names
    return DataConfig.model_validate({**config.model_dump(), **changes})


def check_classes(pipe: Pipeline, dataset: Dataset) -> None:
    """Raise `FlexvarError` unless the data's classes are the model's, by number."""
    if dataset.num_classes != pipe.model.num_classes:
        raise FlexvarError(
            f"{dataset.config.source} has {dataset.num_classes} classes, the model "
            f"{pipe.model.num_classes}; name the data that the model was trained on."
        )


def in_range(batch_B3HW: Tensor) -> Tensor:
    """Pictures of bytes as fp32 in [-1,1], as `flexvar.images.to_tensor` has them."""
    return batch_B3HW.float() / 127.5 - 1
