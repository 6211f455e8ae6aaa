"""The figures of a trained tokenizer or model: a row's worth."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness.suite import Red
from flexvar import Pipeline, images
from flexvar.data import DataConfig, open_data, ordered_batches
from flexvar.evaluation import offline
from flexvar.files import whole_file
from flexvar.layout import Layout
from flexvar.sequence import teacher_forcing
from flexvar.training.figures import model_figures as token_figures
from flexvar.training.run import RunDirectory
from studies.ablation import quality, trained
from studies.ablation.plan import ModelRun, TokenizerRun
from studies.ablation.trained import Place

TOLERANCE = 1e-4  # of fp32 logits, relative to the largest
SAMPLES = "samples.png"
SHOWN = 4  # pictures of a class in the sample grid


def tokenizer_figures(run: TokenizerRun, place: Place) -> dict[str, Any]:
    """Train the tokenizer if it is not; what its reconstructions are worth beside real pictures."""
    _threads(place)
    directory = trained.tokenizer(run, place)
    pipe = Pipeline.from_pretrained(directory, device=place.device)
    real = quality.against(run.recipe["data"], place, _per_class(run.data, place))
    last = trained.log(directory, "validation")[-1]
    return {
        "parameters": _count(pipe.tokenizer),
        "reconstructions": offline.reconstruction_figures(pipe, real),
        "by_scale": {
            name: {k.split("/")[1]: v for k, v in last.items() if k.startswith(f"{name}/")}
            for name in ("psnr", "ssim", "usage")
        },
        "curve": _curve(directory, "psnr"),
        "images_per_second": trained.log(directory, "train")[-1]["images_per_second"],
    }


def model_figures(run: ModelRun, place: Place) -> dict[str, Any]:
    """Train the model if it is not; its losses on held-out pictures, and its samples' worth.

    Everything is with the run's own list of grids; losses and accuracies are means over tokens.
    """
    _threads(place)
    directory = trained.model(run, place)
    pipe = Pipeline.from_pretrained(directory, device=place.device)
    count, layout = _per_class(run.data, place), Layout.of(*run.grids)
    real = quality.against(run.recipe["data"], place, count)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some lists of grids lie outside those of training
        figures: dict[str, Any] = {
            "implementation": _implementation(pipe),
            "parameters": _count(pipe.model),
            "backbone_parameters": _count(pipe.model.backbone),
            "tokens": layout.tokens,
            "validation": validation(pipe, run.recipe["data"], layout, place.budget.validation),
            "training": trained.log(directory, "train")[-1]["loss"],
            "curve": _curve(directory, "validation_loss"),
            "images_per_second": trained.log(directory, "train")[-1]["images_per_second"],
        }
        figures["parity"] = parity(pipe, run.recipe["data"], layout)
        made, labels = quality.samples(pipe, count, place.seed, run.grids)
        figures["samples"] = quality.figures(real, made, labels)
        shown = made.unflatten(0, (-1, count))[:, : min(SHOWN, count)].transpose(0, 1)
        with whole_file(directory / SAMPLES) as temporary:
            images.table(shown).save(temporary, format="PNG")
        figures["picture"] = str((directory / SAMPLES).relative_to(place.root))
        if run.by_steps:
            figures["by_steps"] = [
                _in_steps(pipe, steps, count, real, place.seed) for steps in run.by_steps
            ]
        if run.traced:
            figures["trace"] = _trace(pipe, directory, run, real, place)
    return figures


def validation(
    pipe: Pipeline, data: Mapping[str, Any], layout: Layout, limit: int
) -> dict[str, Any]:
    """Loss (nats) and error rate of held-out tokens: by scale, of all, and of the last scale."""
    held_out = open_data(DataConfig.model_validate(dict(data)), "val")
    batches = (
        (batch.images_B3HW.to(pipe.device), batch.labels_B.to(pipe.device), layout)
        for batch in ordered_batches(held_out, batch_size=quality.BATCH, limit=limit)
    )
    mean = token_figures(pipe, batches)
    return {
        "loss": mean["loss"],
        "last_loss": mean["last_loss"],
        "error": 1 - mean["accuracy"],
        "last_error": 1 - mean["last_accuracy"],
        "loss_by_scale": {str(grid): mean[f"loss/{grid}"] for grid in layout},
        "pictures": min(limit, len(held_out)),
    }


@torch.inference_mode()
def parity(pipe: Pipeline, data: Mapping[str, Any], layout: Layout) -> dict[str, Any]:
    """Logits scale by scale, as samples are drawn, against all at once, as the loss is taken.

    Raises `Red` if they differ: then losses and samples are not of the same model.
    """
    held_out = open_data(DataConfig.model_validate(dict(data)), "val")
    batch = next(iter(ordered_batches(held_out, batch_size=4, limit=4)))
    images, labels_B = (tensor.to(pipe.device) for tensor in batch[:2])
    inputs_BLC = teacher_forcing(pipe.tokenizer, pipe.tokenizer.encode(images, layout), layout)
    state, first = pipe.model.start(labels_B, layout), layout[0].cells
    by_scale = [pipe.model.step(None, state)]
    for part in layout.slices[1:]:
        by_scale.append(
            pipe.model.step(inputs_BLC[:, part.start - first : part.stop - first], state)
        )
    at_once_BLV = pipe.model(labels_B, inputs_BLC, layout)
    gap_BLV = torch.cat(by_scale, dim=1) - at_once_BLV
    # A share of the largest logit: those of fresh models are tiny, those of trained ones tens.
    greatest = float(gap_BLV.abs().max() / at_once_BLV.abs().max())
    found = {
        "compared": "logits scale by scale against all at once, relative to the largest",
        "tolerance": TOLERANCE,
        "greatest": greatest,
    }
    if not greatest < TOLERANCE:
        what = "logits scale by scale and all at once differ"
        raise Red(f"{what} by {greatest:.2e} of the largest, over {TOLERANCE:g}", found)
    return found


def _in_steps(
    pipe: Pipeline, steps: int, count: int, real: offline.Reference, seed: int
) -> dict[str, Any]:
    start = time.perf_counter()
    made, labels = quality.samples(pipe, count, seed, steps)
    seconds = time.perf_counter() - start
    grids = str(pipe.layout(steps=steps, warn=False))
    per_image = {"seconds_per_image": seconds / len(made)}
    return {"steps": steps, "grids": grids} | per_image | quality.figures(real, made, labels)


def _trace(
    pipe: Pipeline, directory: Path, run: ModelRun, real: offline.Reference, place: Place
) -> list[dict[str, float]]:
    """Samples of the averaged weights at the checkpoints that were kept."""
    found = []
    checkpoints = RunDirectory(directory)
    for step in checkpoints.steps():
        state = checkpoints.load(step)
        weights = state["players"]["main"]["weights"] | (state["ema"] or {})
        pipe.model.load_state_dict(weights)
        made, labels = quality.samples(pipe, place.budget.traced, place.seed, run.grids)
        found.append({"step": step} | quality.figures(real, made, labels))
    return found


def _per_class(data: str, place: Place) -> int:
    return place.budget.samples if data == "digits" else place.budget.photos_samples


def _curve(directory: Path, name: str) -> dict[str, list[list[float]]]:
    return {
        "training": [[x["step"], x["loss"]] for x in trained.log(directory, "train")],
        "validation": [[x["step"], x[name]] for x in trained.log(directory, "validation")],
    }


def _implementation(pipe: Pipeline) -> str | None:
    """What really ran, of backbones that can tell."""
    told = getattr(pipe.model.backbone, "implementation", None)
    return str(told() if callable(told) else told) if told is not None else None


def _count(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())


def _threads(place: Place) -> None:
    """One thread for each run, so that the result does not depend on how many run side by side."""
    if place.device in ("cpu", "auto"):
        torch.set_num_threads(1)
