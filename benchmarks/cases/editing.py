"""What a trained model's zero-shot tasks are worth, on pictures it was and was not trained on.

    python -m benchmarks.cases.editing --model photos --data photos

Every figure stands beside the plain way: a wrong class, the mean colour, bicubic enlarging,
chance. Pictures and the plot of quality and time against steps go to ``--pictures``.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from math import log10
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from benchmarks import record
from benchmarks.cases.common import Row, measured, shown_rows, why
from benchmarks.suite import Case, Options, Section, Table
from flexvar import Pipeline, canvas, images
from flexvar.data import DataConfig, open_data
from flexvar.edit import RULES

SUITE = "editing"
SUMMARY = "Zero-shot tasks of the bundled model, against a wrong class, bicubic, and chance"
Samples = tuple[Tensor, list[int]]
# pipeline, name of the data, pictures per figure, where sheets go -> figures
Task = Callable[[Pipeline, str, int, Path | None], dict[str, Any]]


def run(
    *,
    quick: bool = False,
    model: str | Path = "photos",
    data: str = "photos",
    pictures: Path | None = record.RESULTS,
    count: int = 48,
) -> list[dict[str, Any]]:
    """Rows of figures for one trained pipeline.

    model: checkpoint directory or bundled name. data: the set it was trained on. pictures: where
    sheets and the plot go, None for nowhere. count: pictures per figure.
    """
    count = 4 if quick else count
    rows = []
    for case in _cases(str(model), data, pictures, count):
        start = time.perf_counter()
        row = {"suite": SUITE, "case": case.name, "settings": case.settings, "figures": case.run()}
        row["seconds"] = round(time.perf_counter() - start, 1)
        rows.append(row)
    return rows


def cases(options: Options) -> list[Case]:
    """A case per task, of the bundled model and the set it was trained on.

    Pictures of a whole run go to ``benchmarks/results``, of a quick one nowhere.
    """
    given = {"device": options.device, "quick": options.quick}
    count, folder = (4, None) if options.quick else (48, record.RESULTS)
    return _cases("photos", "photos", folder, count, **given)


def sections(rows: list[Row]) -> list[Section]:
    """The figures of each task, and the sheets that a whole run left behind."""
    shown = shown_rows(rows)
    body = [
        [row["case"], name, _told(value)]
        for row in measured(shown)
        for name, value in row["figures"].items()
    ]
    body += [[row["case"], why(row), ""] for row in shown if record.status(row) != "ok"]
    pictures = []
    if measured(shown):
        for path in sorted(record.RESULTS.glob("editing-*.png")):
            with Image.open(path) as image:
                pictures.append((path.stem.replace("-", " "), image.convert("RGB")))
    text = (
        "A model that was only trained to generate, edited with: beside every figure stands the "
        "plain way - a wrong class, the mean colour, bicubic enlarging, chance."
    )
    return [Section("Zero-shot tasks", text, pictures, [Table(("case", "figure", "value"), body)])]


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_told(one)}" for name, one in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cases(model: str, data: str, pictures: Path | None, count: int, **given: Any) -> list[Case]:
    settings = {"model": model, "data": data, "pictures": count, **given}
    return [
        Case(SUITE, name, settings, partial(_measure, task, settings, pictures))
        for name, task in TASKS.items()
    ]


def _measure(task: Task, settings: dict[str, Any], pictures: Path | None) -> dict[str, Any]:
    pipe = Pipeline.from_pretrained(settings["model"], device=settings.get("device", "cpu"))
    if pictures is not None:
        pictures.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sizes and steps beyond training are the point
        return task(pipe, settings["data"], settings["pictures"], pictures)


def _known(pipe: Pipeline, data: str, count: int) -> Samples:
    return samples(DataConfig(source=data, size=pipe.size), "train", count)


def _held_out(pipe: Pipeline, data: str, count: int) -> Samples:
    return samples(DataConfig(source=data, size=pipe.size), "val", 4 * count)


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
    error = (a_B3HW - b_B3HW).square()
    error = error.flatten(2) if where_HW is None else error[..., where_HW]
    return [-10 * log10(max(float(one), 1e-10)) for one in error.mean(dim=(1, 2))]


def against(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """Paired difference: its mean, its standard error, and how often ours is higher."""
    gaps = [a - b for a, b in zip(ours, theirs, strict=True)]
    spread_ = statistics.stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else 0.0
    return {
        "mean": round(statistics.mean(gaps), 3),
        "standard_error": round(spread_, 3),
        "share_better": round(sum(gap > 0 for gap in gaps) / len(gaps), 3),
    }


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


def accuracy(total_BN: Tensor, truth_B: Tensor) -> float:
    """Share of rows whose highest value stands at the true class."""
    return round(float((total_BN.argmax(dim=1) == truth_B).float().mean()), 4)


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
                        encode_at=encode_at,  # type: ignore[arg-type]
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
        plot(
            [int(number) for number in result],
            {
                "class accuracy": [one["accuracy"] for one in result.values()],
                "seconds per image": [one["seconds_per_image"] for one in result.values()],
            },
            "steps",
        ).save(folder / "editing-steps-plot.png")
    return result


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
    images.labelled_sheet(
        [(title, [images.to_pil(one) for one in made[:most]]) for title, made in rows.items()],
        scale=scale,
    ).save(folder / name)


def plot(x: list[int], curves: dict[str, list[float]], label: str) -> Image.Image:
    """Curves over the same numbers, one below the other, from zero on."""
    width, height, margin = 640, 200, 48
    font = ImageFont.load_default(14)
    page = Image.new("RGB", (width, height * len(curves)), "white")
    draw = ImageDraw.Draw(page)
    for number, (title, values) in enumerate(curves.items()):
        base = (number + 1) * height - margin + 12
        top = max(*values, 1e-9)
        points = [
            (
                margin + (one - x[0]) / max(x[-1] - x[0], 1) * (width - 2 * margin),
                base - value / top * (height - 2 * margin),
            )
            for one, value in zip(x, values, strict=True)
        ]
        draw.line((margin, base, width - margin, base), fill="grey")
        draw.text(
            (margin, number * height + 4), f"{title} (0 to {top:.3g})", fill="black", font=font
        )
        if len(points) > 1:
            draw.line(points, fill="black", width=2)
        for (column, row), one, value in zip(points, x, values, strict=True):
            draw.ellipse((column - 3, row - 3, column + 3, row + 3), fill="black")
            draw.text((column, row - 16), f"{value:.3g}", fill="black", font=font, anchor="mm")
            draw.text((column, base + 12), str(one), fill="black", font=font, anchor="mm")
        draw.text((width - margin + 8, base + 5), label, fill="black", font=font)
    return page


def show(row: dict[str, Any], write: Callable[[str], Any] = print) -> None:
    """Print a row."""
    write(f"{row['case']} ({row['seconds']} s)")
    for name, value in row["figures"].items():
        write(f"  {name}: {value}")


def main() -> None:
    """Run the suite over a checkpoint and add its rows to the results file of this machine."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="photos", help="checkpoint directory or bundled name")
    parser.add_argument("--data", default="photos", help="the set it was trained on")
    parser.add_argument("--count", type=int, default=48, help="pictures per figure")
    parser.add_argument("--pictures", type=Path, default=record.RESULTS, help="where sheets go")
    parser.add_argument("--quick", action="store_true", help="4 pictures, nothing recorded")
    parser.add_argument("--out", type=Path, help="JSON Lines file; by default one per machine")
    given = parser.parse_args()
    for row in run(
        quick=given.quick,
        model=given.model,
        data=given.data,
        pictures=given.pictures,
        count=given.count,
    ):
        show(row)
        if not given.quick or given.out is not None:
            print(f"  added to {record.append(row, given.out)}")


if __name__ == "__main__":
    main()
