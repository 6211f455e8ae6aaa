"""Options that several commands have, and how their texts are read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

PRESETS = "preset's"

Model = Annotated[
    str,
    typer.Option(
        help="Checkpoint directory, bundled or released name (see `flexvar pull`), or hub id.",
        show_default=False,
    ),
]
Prompt = Annotated[
    list[str] | None,
    typer.Option(
        help="Words, for a model that takes them; give it again for more.", show_default=False
    ),
]
Negative = Annotated[
    str | None,
    typer.Option(help="What guidance leads away from: words, or a class.", show_default=False),
]
Steps = Annotated[
    str | None,
    typer.Option(
        help="Number of steps, or the grids themselves: 1,2,4,6x4.",
        show_default="usual for the size",
    ),
]
Sampler = Annotated[
    str | None,
    typer.Option(
        help="How tokens are chosen, see `flexvar plugins`; its options stand below.",
        show_default=PRESETS,
    ),
]
Preset = Annotated[str, typer.Option(help="Named sampling settings of the checkpoint.")]
Seed = Annotated[int | None, typer.Option(help="Same seed, same images.", show_default="random")]
Out = Annotated[Path, typer.Option(help="Directory for the PNG files.")]
Mark = Annotated[
    bool,
    typer.Option(
        "--mark/--no-mark",
        help="Say in the files' XMP that a model made them (DigitalSourceType).",
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...; auto is CUDA if any.")]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="Spend a while at the start to be faster after: graphs, compiled blocks and kernels "
        "on CUDA, on a CPU what a trial finds faster. The same images.",
    ),
]
Dtype = Annotated[str, typer.Option(help="fp32, bf16, fp16, or int8 on a CPU.")]


def parse_size(text: str) -> tuple[int, int]:
    """(height, width) of ``96x64``, or of ``96`` for a square."""
    from flexvar.errors import FlexvarError

    parts = text.lower().split("x")
    if len(parts) > 2 or not all(re.fullmatch(r" *[0-9]+ *", part) for part in parts):
        raise FlexvarError(f"--size: got {text!r}; expected height x width, for example 96x64.")
    height, width = int(parts[0]), int(parts[-1])
    return height, width


def parse_steps(text: str) -> int | list[tuple[int, int]]:
    """A number of steps, or the grids of ``1,2,4,6x4``."""
    from flexvar.errors import FlexvarError

    parts = [part.strip().lower().split("x") for part in text.split(",")]
    numbers = all(re.fullmatch(r"-?[0-9]+", p) for part in parts for p in part)
    if not numbers or any(len(part) > 2 for part in parts):
        raise FlexvarError(
            f"--steps: got {text!r}; expected a number, or grids (rows x columns) as in 1,2,4,6x4."
        )
    if len(parts) == 1 and len(parts[0]) == 1:
        return int(parts[0][0])
    return [(int(part[0]), int(part[-1])) for part in parts]


def word_of(pipe: Any) -> str:
    """What a call names its condition: ``label`` or ``prompt``."""
    from flexvar.components.conditioner import takes

    return "label" if takes(pipe.model.conditioner) == "label" else "prompt"


def check_out(out: Path) -> None:
    """Say that a directory cannot be written before the work is done, not after."""
    import os

    from flexvar.errors import FlexvarError

    if out.suffix.lower() in (".png", ".jpg", ".jpeg", ".webp", ".gif") and not out.is_dir():
        raise FlexvarError(f"--out {out}: name a directory; the pictures in it are numbered.")
    place = out
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise FlexvarError(f"--out {out}: {place} is a file; name a directory.")
    if not os.access(place, os.W_OK):
        raise FlexvarError(f"--out {out}: {place} cannot be written to.")
