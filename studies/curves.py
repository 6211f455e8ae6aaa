"""Training runs side by side: their losses in one plot, their last samples below it.

    python -m studies.curves runs/photos-model runs/photos-mamba --out twins.png

A run is the directory that ``flexvar train model`` made.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

from benchmarks.harness import command, plots
from flexvar.errors import FlexvarError
from flexvar.files import whole_file
from flexvar.images import sheet

Points = list[tuple[float, float]]
# The first steps fall from log V, and would flatten all that follows.
FROM = 50


def curves(run: Path) -> dict[str, Points]:
    """Loss in nats a token against steps, in training and on held-out pictures.

    Raises `FlexvarError` for a directory without a log of a model's training.
    """
    try:
        text = (run / "log.jsonl").read_text(encoding="utf-8")
    except OSError as error:
        raise FlexvarError(
            f"{run} is no training run: log.jsonl: {error.strerror or error}."
        ) from None
    lines = [json.loads(line) for line in text.splitlines()]
    found = {
        f"{run.name}, training": [
            (x["step"], x["loss"]) for x in lines if x["kind"] == "train" and x["step"] >= FROM
        ],
        f"{run.name}, held out": [
            (x["step"], x["validation_loss"]) for x in lines if "validation_loss" in x
        ],
    }
    if not all(found.values()):
        raise FlexvarError(f"{run} has no losses of a model yet; train it further.")
    return found


def samples(run: Path) -> Image.Image:
    """The last sample grid of a run. Raises `FlexvarError` if there is none."""
    grids = sorted((run / "samples").glob("*.png"))
    if not grids:
        raise FlexvarError(f"{run} has no sample grid; train with sample_every above 0.")
    return Image.open(grids[-1]).convert("RGB")


def picture(runs: Sequence[Path]) -> Image.Image:
    """The plot of all runs, and a row of samples for each."""
    lines = {name: points for run in runs for name, points in curves(run).items()}
    plot = plots.lines(lines, "step", "nats a token", log_x=False, log_y=False)
    shown = sheet([[samples(run)] for run in runs], names=[run.name for run in runs])
    page = Image.new("RGB", (max(plot.width, shown.width), plot.height + shown.height), "white")
    page.paste(plot, (0, 0))
    page.paste(shown, (0, plot.height))
    return page


def main(
    runs: Annotated[list[Path], typer.Argument(help="Directories of model runs.")],
    out: Annotated[Path, typer.Option(help="PNG file.")] = Path("runs.png"),
) -> None:
    """Put training runs side by side in one picture.

    Example: python -m studies.curves runs/photos-model runs/photos-mamba --out twins.png
    """
    page = picture(runs)
    with whole_file(out) as temporary:
        page.save(temporary, format="PNG")
    typer.echo(str(out))


if __name__ == "__main__":
    command.run(main)
