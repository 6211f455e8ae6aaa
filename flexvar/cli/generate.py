"""``flexvar generate``: images of classes, as PNG files that carry their settings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer


def generate(
    model: Annotated[
        str, typer.Option(help="Checkpoint directory, bundled name, or hub id.", show_default=False)
    ],
    label: Annotated[
        list[str] | None,
        typer.Option(help="Class number or name; give it again for more.", show_default=False),
    ] = None,
    num: Annotated[int, typer.Option(help="Images per label.")] = 1,
    size: Annotated[
        str | None,
        typer.Option(
            help="Height x width in pixels, for example 96x64.", show_default="that of training"
        ),
    ] = None,
    steps: Annotated[
        str | None,
        typer.Option(
            help="Number of steps, or the grids themselves: 1,2,4,6x4.",
            show_default="usual for the size",
        ),
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Classifier-free guidance.", show_default="preset's")
    ] = None,
    guidance_schedule: Annotated[
        str | None, typer.Option(help="ramp, ramp10 or constant.", show_default="preset's")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Divides the logits.", show_default="preset's")
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(help="Likeliest tokens kept; 0 is all.", show_default="preset's")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Nucleus kept of those; 1 is all.", show_default="preset's")
    ] = None,
    soft: Annotated[
        bool | None, typer.Option(help="Mean codes: smoother looks.", show_default="preset's")
    ] = None,
    preset: Annotated[
        str, typer.Option(help="Named sampling settings of the checkpoint.")
    ] = "default",
    seed: Annotated[
        int | None, typer.Option(help="Same seed, same images.", show_default="random")
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory for the PNG files.")] = Path("out"),
    batch: Annotated[int, typer.Option(min=1, help="Images made at a time.")] = 16,
    device: Annotated[
        str, typer.Option(help="cpu, cuda, cuda:1 ...; auto is CUDA if any.")
    ] = "auto",
    dtype: Annotated[str, typer.Option(help="fp32, bf16 or fp16.")] = "fp32",
    any_size: Annotated[
        bool,
        typer.Option(
            "--any-size", help="Also sizes a model with one list of grids was not made for."
        ),
    ] = False,
    tile: Annotated[
        int | None,
        typer.Option(
            help="Side in pixels of the tiles large pictures are decoded in; 0 is never.",
            show_default="512 above 1024x1024 pixels",
        ),
    ] = None,
    show_scales: Annotated[
        bool,
        typer.Option(
            "--show-scales",
            help="Also write each image after every scale, as a strip and an animation.",
        ),
    ] = False,
) -> None:
    """Generate images of the given classes.

    Writes 00000.png ... and, for several, a contact sheet grid.png to --out. Every PNG carries
    the settings that make it again. With --show-scales also 00000-scales.png and .webp.

    Example: flexvar generate --model DIR --label 3 --label 7 --size 96x64 --steps 9 --seed 0
    """
    from flexvar.errors import FlexvarError

    if not label:
        raise FlexvarError("There is no label; give at least one: --label 3 (or a class name).")
    asked_size = None if size is None else parse_size(size)
    asked_steps = None if steps is None else parse_steps(steps)
    if num < 1:
        raise FlexvarError(f"--num: got {num}; expected at least 1.")
    check_out(out)

    from flexvar import images
    from flexvar.pipeline import Pipeline
    from flexvar.views import Scales, animate, strip

    pipe = Pipeline.from_pretrained(model, device=device, dtype=dtype, preset=preset)
    numbers = [number for number in pipe.label_numbers(label) for _ in range(num)]
    if seed is None:
        import secrets

        seed = secrets.randbelow(2**31)
    pictures: list[Any] = []
    names: list[Path] = []
    scales = Scales() if show_scales else None
    for start in range(0, len(numbers), batch):
        part = numbers[start : start + batch]
        result = pipe(
            part,
            size=asked_size,
            steps=asked_steps,
            guidance=guidance,
            guidance_schedule=guidance_schedule,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            soft=soft,
            seed=seed,
            first_index=start,
            any_size=any_size,
            tile=tile,
            on_scale=scales,
        )
        if scales is not None:
            out.mkdir(parents=True, exist_ok=True)
            for index, views in enumerate(scales.pictures(pipe)):
                stem = out / f"{start + index:05d}-scales"
                images.save_png(
                    strip(views), stem.with_suffix(".png"), result.image_settings(index)
                )
                animate(views, stem.with_suffix(".webp"))
        names += result.save(out, start=start)
        pictures += result.images
    if len(pictures) > 1:
        names.append(out / "grid.png")
        images.save_png(
            images.contact_sheet(pictures), names[-1], {**result.settings, "seeds": seed}
        )
    height, width = pictures[0].height, pictures[0].width
    count = f"{len(pictures)} image" + ("s" if len(pictures) > 1 else "")
    typer.echo(f"{count} of {height}x{width} px in {out} (seed {seed})")


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


def check_out(out: Path) -> None:
    """Say that a directory cannot be written before the work is done, not after."""
    import os

    from flexvar.errors import FlexvarError

    place = out
    while not place.exists():
        place = place.parent
    if not place.is_dir():
        raise FlexvarError(f"--out {out}: {place} is a file; name a directory.")
    if not os.access(place, os.W_OK):
        raise FlexvarError(f"--out {out}: {place} cannot be written to.")
