"""``flexvar grid``: one picture for every pair of settings, on a sheet that names them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flexvar.cli import options

MOST_CELLS = 400


def grid(
    x: Annotated[
        str,
        typer.Option(
            help="What changes along a row: steps=4,6,9. Values with commas are parted by ;.",
            show_default=False,
        ),
    ],
    y: Annotated[
        str | None,
        typer.Option(help="What changes from row to row: model=photos,mine.", show_default=False),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Checkpoint directory, bundled or released name, or hub id.", show_default=False
        ),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Class number or name.", show_default=False)
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Words, for a model that takes them.", show_default=False)
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="Height x width in pixels, for example 96x64.", show_default="that of training"
        ),
    ] = None,
    steps: options.Steps = None,
    sampler: options.Sampler = None,
    preset: options.Preset = "default",
    seed: Annotated[int, typer.Option(help="The same for every picture.")] = 0,
    out: Annotated[Path, typer.Option(help="The sheet, a PNG file.")] = Path("grid.png"),
    device: options.Device = "auto",
    dtype: options.Dtype = "fp32",
    mark: options.Mark = True,
    any_size: Annotated[
        bool,
        typer.Option(
            "--any-size", help="Also sizes a model with one list of grids was not made for."
        ),
    ] = False,
    **sampling: Any,
) -> None:
    """Compare settings: a sheet with a picture for every value of --x and of --y.

    What may change: model, preset, label, prompt, size, steps, seed, sampler, and the options of
    the sampler. All pictures have the same seed, so that only the settings differ.

    Example: flexvar grid --x steps=4,6,9 --y model=photos,photos-mamba --label coffee
    """
    from flexvar.errors import FlexvarError

    given: dict[str, Any] = {
        "model": model,
        "preset": preset,
        "label": label,
        "prompt": prompt,
        "size": size,
        "steps": steps,
        "sampler": sampler,
        "seed": seed,
        **sampling,
    }
    given = {name: value for name, value in given.items() if value is not None}
    columns = _axis("--x", x)
    rows = [("", "")] if y is None else _axis("--y", y)
    if y is not None and rows[0][0] == columns[0][0]:
        raise FlexvarError(f"--x and --y both change {rows[0][0]}; name two different settings.")
    if len(rows) * len(columns) > MOST_CELLS:
        raise FlexvarError(
            f"That are {len(rows) * len(columns)} pictures; a sheet takes {MOST_CELLS} at most."
        )
    if out.suffix.lower() != ".png":
        raise FlexvarError(f"--out {out}: name a PNG file.")

    from flexvar import images
    from flexvar.pipeline import Pipeline

    pipes: dict[tuple[str, str], Any] = {}
    table: list[list[Any]] = []
    for row in rows:
        table.append([])
        for column in columns:
            cell = dict(given)
            cell.update((name, value) for name, value in (row, column) if name)
            name, kind = cell.pop("model", None), str(cell.pop("preset", "default"))
            if name is None:
                raise FlexvarError("There is no model; name one: --model photos (or a directory).")
            if (name, kind) not in pipes:
                pipes[name, kind] = Pipeline.from_pretrained(
                    name, device=device, dtype=dtype, preset=kind
                )
            call = {key: _value(key, value) for key, value in cell.items()}
            words = {f"{key}s": [call.pop(key)] for key in ("label", "prompt") if key in call}
            result = pipes[name, kind](**words, **call, any_size=any_size)
            table[-1].append(result.images[0])
    picture = images.sheet(
        images.of_one_size(table),
        names=[f"{name} {value}" for name, value in rows] if y is not None else (),
        columns=[f"{name} {value}" for name, value in columns],
    )
    about = {"x": x, "y": y, **{key: value for key, value in given.items() if key != "model"}}
    if model is not None:
        about["checkpoint"] = model
    images.save_png(picture, out, about, mark=mark)
    typer.echo(f"{len(rows) * len(columns)} pictures on {out} (seed {given['seed']})")


def _axis(option: str, text: str) -> list[tuple[str, str]]:
    """The name and each of the values of ``steps=4,6,9``."""
    from flexvar.errors import FlexvarError

    name, equals, rest = text.partition("=")
    name = name.strip().replace("-", "_")
    values = [one.strip() for one in rest.split(";" if ";" in rest else ",")]
    if not equals or not name.isidentifier() or not all(values):
        raise FlexvarError(f"{option}: got {text!r}; expected values of a setting: steps=4,6,9.")
    return [(name, value) for value in values]


def _value(name: str, text: Any) -> Any:
    """The value of a setting as a call takes it."""
    from flexvar.errors import FlexvarError

    if not isinstance(text, str) or name in ("label", "prompt", "sampler"):
        return text
    if name == "steps":
        return options.parse_steps(text)
    if name == "size":
        return options.parse_size(text)
    import yaml

    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise FlexvarError(f"{name}: got {text!r}; expected a number, a word or true.") from None
    return value
