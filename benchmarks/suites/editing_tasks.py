"""The tasks: inpainting, refinement, scoring, other sizes and numbers of steps."""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import plots
from benchmarks.suites.editing_figures import (
    Samples,
    against,
    classes,
    decibels,
    likeness,
    samples,
    spread,
)
from flexvar import Pipeline, images
from flexvar.data import DataConfig
from flexvar.editing import canvas
from flexvar.editing.known import RULES
from flexvar.files import whole_file

# pipeline, name of the data, pictures per figure, where sheets go -> figures
Task = Callable[[Pipeline, str, int, Path | None], dict[str, Any]]


def measure(
    task: str, model: str, data: str, count: int, folder: Path | None, device: str = "cpu"
) -> dict[str, Any]:
    """The figures of a task of `TASKS`.

    model: checkpoint directory or bundled name. data: the set it was trained on. count: pictures
    per figure. folder: where sheets and the plot go, None for nowhere.
    """
    pipe = Pipeline.from_pretrained(model, device=device)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sizes and steps beyond training are the point
        return TASKS[task](pipe, data, count, folder)


def holes(pipe: Pipeline, given: Samples, folder: Path | None) -> dict[str, Any]:
    """PSNR in a hole in the middle, half the sides: right and wrong class, mean colour, blur.

    What stood in the hole is gone before the pipeline sees the picture.
    """
    pictures, labels = given
    height, width = pictures.shape[-2:]
    hole = torch.zeros(height, width, dtype=torch.bool)
    hole[height // 4 : height - height // 4, width // 4 : width - width // 4] = True
    many = hole.expand(len(pictures), -1, -1)
    blurred = canvas.fill_in(pictures, many)
    mean = pictures[..., ~hole].mean(dim=2)[..., None, None]
    mean = torch.where(hole, mean, pictures)
    wrong = [(label + 1 + index) % pipe.model.num_classes for index, label in enumerate(labels)]
    wrong = [w if w != label else (w + 1) % pipe.model.num_classes
             for w, label in zip(wrong, labels, strict=True)]  # fmt: skip
    found: dict[str, list[float]] = {
        "mean colour": decibels(mean, pictures, hole),
        "blur of the rim": decibels(blurred, pictures, hole),
    }
    shown = {"original": pictures, "hole": mean, "blur": blurred}
    for rule in RULES:
        for top_k in (None, 1):
            for name, which in (("right", labels), ("wrong", wrong)):
                made = pipe.inpaint(
                    list(blurred), many, which, rule=rule, top_k=top_k, seed=0, output="tensor"
                ).images
                key = f"{rule}, {name} class, {'drawn' if top_k is None else 'likeliest'}"
                found[key] = decibels(made, pictures, hole)
                shown[key] = made
    sheet(folder, "editing-inpaint.png", shown)
    result: dict[str, Any] = {
        name: {"psnr_db": round(statistics.mean(values), 2)} for name, values in found.items()
    }
    for name, values in found.items():
        if "right" in name:
            result[name]["against_wrong_class"] = against(
                values, found[name.replace("right", "wrong")]
            )
            result[name]["against_mean_colour"] = against(values, found["mean colour"])
    return result


def enlarged(pipe: Pipeline, given: Samples, folder: Path | None) -> dict[str, Any]:
    """PSNR of pictures brought to half their size and back: refined, and bicubic."""
    pictures, labels = given
    height, width = pictures.shape[-2:]
    small = canvas.resize(pictures, (height // 2, width // 2))
    bicubic = canvas.resize(small, (height, width))
    best = pipe.reconstruct(pictures, output="tensor")
    found = {"bicubic": decibels(bicubic, pictures), "tokenizer alone": decibels(best, pictures)}
    shown = {"original": pictures, "small": bicubic}
    first = pipe.refine(list(small), (height, width), labels, seed=0).settings["start"]
    last = len(pipe.layout((height, width), warn=False)) - 1
    for encode_at in ("target", "own"):
        for start in sorted({first, min(first + 1, last), min(first + 2, last)}):
            for top_k in (None, 1):
                try:
                    made = pipe.refine(
                        list(small),
                        (height, width),
                        labels,
                        start=start,
                        encode_at=encode_at,
                        top_k=top_k,
                        seed=0,
                        output="tensor",
                    ).images
                except ValueError:
                    continue  # a residual tokenizer does not encode at the picture's own size
                how = "drawn" if top_k is None else "likeliest"
                key = f"encoded at {encode_at}, from step {start}, {how}"
                found[key] = decibels(made, pictures)
                shown[key] = made
    sheet(folder, "editing-refine.png", shown)
    return {
        name: {
            "psnr_db": round(statistics.mean(values), 2),
            "against_bicubic": against(values, found["bicubic"]),
        }
        for name, values in found.items()
    }


def sizes(pipe: Pipeline, count: int, folder: Path | None) -> dict[str, Any]:
    """How well the model knows the class of what it generated, at other sizes and shapes.

    Each picture is scored at the size the model was trained at - resized if it is larger, its
    middle if it has another shape - so that sizes are judged alike.
    """
    height, width = pipe.size
    stride = pipe.tokenizer.space.stride
    labels = [n % pipe.model.num_classes for n in range(count)]
    result: dict[str, Any] = {}
    for name, (high, wide) in {
        "1x": (1.0, 1.0),
        "1.5x": (1.5, 1.5),
        "2x": (2.0, 2.0),
        "1:2": (1.0, 2.0),
        "2:1": (2.0, 1.0),
    }.items():
        size = tuple(round(side * by / stride) * stride
                     for side, by in ((height, high), (width, wide)))  # fmt: skip
        made = pipe(labels, size=(size[0], size[1]), seed=0, output="tensor", any_size=True).images
        shorter = min(size[0] / height, size[1] / width)
        crop = round(height * shorter), round(width * shorter)
        top, left = (size[0] - crop[0]) // 2, (size[1] - crop[1]) // 2
        judged = made[..., top : top + crop[0], left : left + crop[1]]
        result[f"{name}, {size[0]}x{size[1]} px"] = likeness(
            pipe, canvas.resize(judged, (height, width)), labels
        )
        sheet(folder, f"editing-size-{name.replace(':', 'to')}.png", {name: made})
    base = next(iter(result.values()))
    for figures in result.values():
        figures["accuracy_minus_1x"] = round(figures["accuracy"] - base["accuracy"], 4)
    return result


def steps(pipe: Pipeline, count: int, folder: Path | None) -> dict[str, Any]:
    """Likeness and time from 4 steps to as many as the latent has grids."""
    labels = [n % pipe.model.num_classes for n in range(count)]
    most = max(side // pipe.tokenizer.space.stride for side in pipe.size)
    result: dict[str, Any] = {}
    rows = {}
    for number in range(min(4, most), most + 1):
        made = pipe(labels, steps=number, seed=0, output="tensor").images
        result[str(number)] = likeness(pipe, made, labels)
        times = []
        for index in range(3):
            start = time.perf_counter()
            pipe(labels[:1], steps=number, seed=index)
            times.append(time.perf_counter() - start)
        result[str(number)]["seconds_per_image"] = round(statistics.median(times), 4)
        rows[f"{number} steps"] = made
    sheet(folder, "editing-steps.png", rows)
    if folder is not None:
        curves = {
            "samples of their class, %": [100 * one["accuracy"] for one in result.values()],
            "ms per image": [1000 * one["seconds_per_image"] for one in result.values()],
        }
        numbers = [int(number) for number in result]
        plot = plots.panels(
            {name: list(zip(numbers, values, strict=True)) for name, values in curves.items()},
            "steps",
        )
        with whole_file(folder / "editing-steps-plot.png") as temporary:
            plot.save(temporary, format="PNG")
    return result


def _known(pipe: Pipeline, data: str, count: int) -> Samples:
    return samples(DataConfig(source=data, size=pipe.size), "train", count)


def _held_out(pipe: Pipeline, data: str, count: int) -> Samples:
    return samples(DataConfig(source=data, size=pipe.size), "val", 4 * count)


TASKS: dict[str, Task] = {
    "score: class of held-out crops": lambda pipe, data, count, _: classes(
        pipe, _held_out(pipe, data, count)
    ),
    "inpaint: centre of training crops": lambda pipe, data, count, folder: holes(
        pipe, _known(pipe, data, count), folder
    ),
    "inpaint: centre of held-out crops": lambda pipe, data, count, _: holes(
        pipe, spread(_held_out(pipe, data, count), count), None
    ),
    "refine: held-out crops from half size": lambda pipe, data, count, folder: enlarged(
        pipe, spread(_held_out(pipe, data, count), count), folder
    ),
    "generate: sizes and shapes": lambda pipe, _, count, folder: sizes(pipe, count, folder),
    "generate: number of steps": lambda pipe, _, count, folder: steps(pipe, count, folder),
}


def sheet(folder: Path | None, name: str, rows: dict[str, Tensor], most: int = 10) -> None:
    """Write rows of pictures, each with its name."""
    if folder is None:
        return
    scale = 2 if next(iter(rows.values())).shape[-1] <= 48 else 1
    sheet = images.sheet(
        [[images.to_pil(one) for one in made[:most]] for made in rows.values()],
        names=list(rows),
        scale=scale,
    )
    with whole_file(folder / name) as temporary:
        sheet.save(temporary, format="PNG")
