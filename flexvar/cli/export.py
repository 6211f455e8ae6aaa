"""``flexvar export``: a model as ONNX graphs that onnxruntime runs without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flexvar.cli import options
from flexvar.cli.output import tell


def export(
    model: Annotated[
        str,
        typer.Argument(
            help="Checkpoint directory, bundled or released name, or hub id.", show_default=False
        ),
    ],
    out: Annotated[Path, typer.Option(help="New directory for the graphs.", show_default=False)],
    size: Annotated[
        str | None,
        typer.Option(help="Height x width in pixels.", show_default="that of training"),
    ] = None,
    steps: options.Steps = None,
    preset: options.Preset = "default",
) -> None:
    """Write a model of classes as ONNX graphs for one size and list of grids, and check them.

    A graph for each scale, one for the decoder, their weights in one file, and generate.py, which
    makes pictures with numpy and onnxruntime alone. Likeliest tokens and pictures are compared
    with the model's. Needs the extra onnx.

    Example: flexvar export photos --size 64x96 --out photos-onnx
    """
    options.check_out(out)
    sides = None if size is None else options.parse_size(size)
    grids = None if steps is None else options.parse_steps(steps)

    from flexvar import Pipeline
    from flexvar.export import TOLERANCE
    from flexvar.export import export as write

    pipe = Pipeline.from_pretrained(model, preset=preset)
    found = write(pipe, out, size=sides, steps=grids, say=tell)
    tell(
        f"{out}: {found.tokens} tokens of {len(found.labels)} pictures are the model's, pixels "
        f"differ by {found.difference:.1g} of 1 at most (allowed {TOLERANCE:g})"
    )
    tell(f"python {out / 'generate.py'} --label {found.labels[0]} --out picture.png")
