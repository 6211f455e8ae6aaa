"""``flexvar generate``: images of classes or words, as PNG files that carry their settings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flexvar.cli import options
from flexvar.cli.output import complain, say


def generate(
    model: Annotated[
        str | None,
        typer.Option(
            help="Checkpoint directory, bundled name, or hub id.",
            show_default="the one of --from, or a bundled one that takes the prompt or label",
        ),
    ] = None,
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
    index: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="First of the images of each label: the i-th of a seed is always the same one.",
            show_default="0",
        ),
    ] = None,
    from_: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="PNG of flexvar to make again, from the settings it carries; what else is given "
            "is changed.",
            show_default=False,
        ),
    ] = None,
    out: options.Out = Path("out"),
    batch: Annotated[int, typer.Option(min=1, help="Images made at a time.")] = 16,
    device: options.Device = "auto",
    dtype: Annotated[
        str | None, typer.Option(help="fp32, bf16, fp16, or int8 on a CPU.", show_default="fp32")
    ] = None,
    compile_: options.Compile = False,
    mark: options.Mark = True,
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
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only say what memory it would take; nothing is loaded."),
    ] = False,
    **sampling: Any,
) -> None:
    """Generate images of the given classes, or of words.

    Writes 00000.png ... and, for several, a contact sheet grid.png to --out; numbers go on after
    those that are there. Every PNG carries the settings that make it again (--from). The i-th image
    of a label is the same whoever stands beside it. With --show-scales also 00000-scales.png and
    .webp.

    Example: flexvar generate --model DIR --label 3 --label 7 --size 96x64 --steps 9 --seed 0
    """
    from flexvar.errors import FlexvarError

    if label and prompt:
        raise FlexvarError(
            f"--label {label[0]} and --prompt {prompt[0]!r} both say what the images are to be of; "
            "give one of them."
        )
    if num < 1:
        raise FlexvarError(f"--num: got {num}; expected at least 1.")
    given: dict[str, Any] = {
        "size": None if size is None else options.parse_size(size),
        "steps": None if steps is None else options.parse_steps(steps),
        "negative": negative,
        "sampler": sampler,
        "seed": seed,
        "any_size": any_size or None,
        **sampling,
    }
    given = {name: value for name, value in given.items() if value is not None}
    if dry_run:
        model = _bundled(model, label, prompt)
        _plan(model, num * max(1, len(label or prompt or ())), batch, device, dtype, preset, tile,
              from_, given)  # fmt: skip
        return
    options.check_out(out)

    from flexvar import images
    from flexvar.cli import again
    from flexvar.conditions import caption_of
    from flexvar.pipeline import Pipeline
    from flexvar.result import next_number
    from flexvar.scales import Scales

    settings = None if from_ is None else images.read_settings(from_)
    if settings is not None:
        assert from_ is not None
        model = again.model_of(settings, model, from_)
        dtype = dtype or str(settings.get("dtype", "fp32"))
    model = _bundled(model, label, prompt)
    if model is None:
        raise FlexvarError("There is no model; name one: --model photos (or a directory).")
    pipe = Pipeline.from_pretrained(model, device=device, dtype=dtype or "fp32", preset=preset)
    if adapter is None and settings is not None:
        assert from_ is not None
        adapter = again.adapters_of(settings, from_)
    if adapter:
        from flexvar.adapters import adapt, parse_adapter

        pipe = adapt(pipe, [parse_adapter(text) for text in adapter])
    if compile_:
        complain(str(pipe.compile()))
    if settings is not None:
        assert from_ is not None
        recorded = again.call_of(settings, pipe, from_)
        for difference in again.differences(settings, pipe):
            complain(f"Not the same picture to the bit, perhaps: {difference}.")
        if "size" in given and "steps" not in given:
            recorded["steps"] = len(recorded["steps"])
        values, first = _values(pipe, label, prompt, recorded), recorded.pop("first_index")[0]
        given = {**recorded, **given}
    else:
        values, first = _values(pipe, label, prompt, None), 0
    first = first if index is None else index
    if given.get("seed") is None:
        import secrets

        given["seed"] = secrets.randbelow(2**31)
    word = options.word_of(pipe)
    everything = [(one, first + number) for one in values for number in range(num)]
    pictures: list[Any] = []
    scales = Scales() if show_scales else None
    begin = next_number(out)
    try:
        for done in range(0, len(everything), batch):
            part = everything[done : done + batch]
            given[f"{word}s"] = [one for one, _ in part]
            result = pipe(
                **given,
                first_index=[number for _, number in part],
                tile=tile,
                on_scale=scales,
            )
            result.save(out, start=begin + done, mark=mark)
            if scales is not None:
                for number, views in enumerate(scales.pictures(pipe)):
                    stem = out / f"{begin + done + number:05d}-scales"
                    about = result.image_settings(number)
                    images.save_png(images.strip(views), stem.with_suffix(".png"), about, mark=mark)
                    images.animate(views, stem.with_suffix(".webp"), mark=mark)
            pictures += result.images
    except KeyboardInterrupt:
        complain(f"Stopped: {len(pictures)} of {len(everything)} images are in {out}.")
        raise typer.Exit(130) from None
    if len(pictures) > 1:
        name = "grid.png" if begin == 0 else f"grid-{begin:05d}.png"
        about = {**result.settings, "seeds": given["seed"]}
        captions = [caption_of(one, pipe.class_names) for one, _ in everything]
        images.save_png(images.contact_sheet(pictures, captions), out / name, about, mark=mark)
    height, width = pictures[0].height, pictures[0].width
    count = f"{len(pictures)} image" + ("s" if len(pictures) > 1 else "")
    where = out / f"{begin:05d}.png" if len(pictures) == 1 else out
    say(f"{count} of {height}x{width} px in {where} (seed {given['seed']})")


def _bundled(model: str | None, label: list[str] | None, prompt: list[str] | None) -> str | None:
    """The model that was named, or the bundled one for a label or words."""
    if model is None and (prompt or label):
        from flexvar.locate import bundled_for

        model = bundled_for(words=bool(prompt))
        if model is not None:
            say(f"model {model}, which comes along (--model takes another)")
    return model


def _plan(
    model: str | None,
    count: int,
    batch: int,
    device: str,
    dtype: str | None,
    preset: str,
    tile: int | None,
    from_: Path | None,
    given: dict[str, Any],
) -> None:
    """Say what memory a call takes."""
    from flexvar.cli.output import tell
    from flexvar.errors import FlexvarError
    from flexvar.footprint import footprint
    from flexvar.ops.precision import parse_device
    from flexvar.pipeline import Pipeline

    if model is None or from_ is not None:
        raise FlexvarError("--dry-run: name a model, --model NAME, and no --from.")
    pipe = Pipeline.without_weights(model, dtype=dtype or "fp32", preset=preset)
    any_size = bool(given.pop("any_size", False))
    negative = given.pop("negative", None) is not None
    given.pop("seed", None)
    layout = pipe.layout(given.pop("size", None), given.pop("steps", None), any_size=any_size)
    found = footprint(
        pipe,
        layout,
        given,
        images=min(count, batch),
        # On a CPU images are made one by one.
        images_per_call=1 if parse_device(device).type == "cpu" else batch,
        negative=negative,
        tile=tile,
        any_size=any_size,
    )
    for line in found.lines():
        tell(line)


def _values(
    pipe: Any,
    label: list[str] | None,
    prompt: list[str] | None,
    recorded: dict[str, Any] | None,
) -> list[Any]:
    """What the images are to be of; recorded: what a picture says, unless something is given."""
    from flexvar.cli import options
    from flexvar.components.conditioner import takes
    from flexvar.errors import FlexvarError

    word = options.word_of(pipe)
    before = None if recorded is None else recorded.pop(f"{word}s")
    if not label and not prompt and before is not None:
        return list(pipe.values(**{f"{word}s": before}))
    kind = takes(pipe.model.conditioner)
    if not label and not prompt and kind == "prompt":
        raise FlexvarError('There is no prompt; give at least one: --prompt "a cat".')
    if not label and not prompt and kind != "nothing":
        names = pipe.class_names
        some = "a number" if not names else ", ".join(names[:12]) + (", ..." * (len(names) > 12))
        raise FlexvarError(f"There is no label; give at least one: --label NAME. Classes: {some}.")
    for text in label or ():
        parts = [part.strip() for part in text.split(",")]
        known = {*(pipe.class_names or ()), *map(str, range(pipe.model.num_classes))}
        if text not in known and len(parts) > 1 and all(part in known for part in parts):
            flags = " ".join(f"--label {part}" for part in parts)
            raise FlexvarError(f"--label {text}: repeat the option for several classes: {flags}.")
    return list(pipe.values(label or None, prompt or None))
