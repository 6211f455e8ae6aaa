"""``flexvar generate``: images of classes or words, as PNG files that carry their settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flexvar.cli import options


def generate(
    model: options.Model,
    label: Annotated[
        list[str] | None,
        typer.Option(help="Class number or name; give it again for more.", show_default=False),
    ] = None,
    prompt: options.Prompt = None,
    negative: options.Negative = None,
    num: Annotated[int, typer.Option(help="Images per label or prompt.")] = 1,
    size: Annotated[
        str | None,
        typer.Option(
            help="Height x width in pixels, for example 96x64.", show_default="that of training"
        ),
    ] = None,
    steps: options.Steps = None,
    sampler: options.Sampler = None,
    preset: options.Preset = "default",
    seed: options.Seed = None,
    out: options.Out = Path("out"),
    batch: Annotated[int, typer.Option(min=1, help="Images made at a time.")] = 16,
    device: options.Device = "auto",
    dtype: options.Dtype = "fp32",
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
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            help="What LoRA learned: DIR, or DIR:0.7 for a share of it; again for more.",
            show_default=False,
        ),
    ] = None,
    **sampling: Any,
) -> None:
    """Generate images of the given classes, or of words.

    Writes 00000.png ... and, for several, a contact sheet grid.png to --out. Every PNG carries
    the settings that make it again. With --show-scales also 00000-scales.png and .webp.

    Example: flexvar generate --model DIR --label 3 --label 7 --size 96x64 --steps 9 --seed 0
    """
    from flexvar.errors import FlexvarError

    if label and prompt:
        raise FlexvarError(
            f"--label {label[0]} and --prompt {prompt[0]!r} both say what the images are to be of; "
            "give one of them."
        )
    asked_size = None if size is None else options.parse_size(size)
    asked_steps = None if steps is None else options.parse_steps(steps)
    if num < 1:
        raise FlexvarError(f"--num: got {num}; expected at least 1.")
    options.check_out(out)

    from flexvar import images
    from flexvar.components.conditioner import takes
    from flexvar.pipeline import Pipeline
    from flexvar.scales import Scales

    pipe = Pipeline.from_pretrained(model, device=device, dtype=dtype, preset=preset)
    if adapter:
        from flexvar.adapters import adapt, parse_adapter

        pipe = adapt(pipe, [parse_adapter(text) for text in adapter])
    kind = takes(pipe.model.conditioner)
    if not label and not prompt and kind != "nothing":
        raise FlexvarError(
            'There is no prompt; give at least one: --prompt "a cat".'
            if kind == "prompt"
            else "There is no label; give at least one: --label 3 (or a class name)."
        )
    values = [one for one in pipe.values(label or None, prompt or None) for _ in range(num)]
    name = "labels" if kind == "label" else "prompts"
    if seed is None:
        import secrets

        seed = secrets.randbelow(2**31)
    pictures: list[Any] = []
    names: list[Path] = []
    scales = Scales() if show_scales else None
    for start in range(0, len(values), batch):
        part: dict[str, Any] = {name: values[start : start + batch]}
        result = pipe(
            **part,
            negative=negative,
            size=asked_size,
            steps=asked_steps,
            sampler=sampler,
            **sampling,
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
                    images.strip(views), stem.with_suffix(".png"), result.image_settings(index)
                )
                images.animate(views, stem.with_suffix(".webp"))
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
