"""``flexvar edit``: in-painting, out-painting, expansion, refinement, class editing."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from flexvar.cli import options
from flexvar.cli.output import say


class Task(StrEnum):
    """What to do with a picture."""

    inpaint = "inpaint"
    outpaint = "outpaint"
    expand = "expand"
    refine = "refine"
    edit = "edit"


# Which options belong to some tasks only.
HOLE = (Task.inpaint, Task.outpaint, Task.expand, Task.edit)
BELONGS: dict[str, tuple[Task, ...]] = {
    "mask": (Task.inpaint,),
    "box": (Task.edit,),
    "ratio": (Task.outpaint,),
    "margins": (Task.outpaint,),
    "fill": (Task.outpaint,),
    "start": (Task.refine,),
    "encode_at": (Task.refine,),
    "rule": HOLE,
    "feather": HOLE,
    "blend": HOLE,
}
NEEDED = {Task.inpaint: "mask", Task.edit: "box", Task.refine: "size"}
HOW = "What to generate"


def edit(
    task: Annotated[
        Task,
        typer.Argument(
            help="inpaint: where a mask is white. outpaint: over the borders. expand: twice as "
            "wide. refine: a larger picture. edit: another class in a box.",
            show_default=False,
        ),
    ],
    model: options.Model,
    image: Annotated[
        list[Path],
        typer.Option(help="Picture file; give it again for more.", show_default=False),
    ],
    label: Annotated[
        list[str] | None,
        typer.Option(
            help="Class number or name, or none for no class; one, or one per picture.",
            show_default=False,
        ),
    ] = None,
    prompt: options.Prompt = None,
    negative: options.Negative = None,
    mask: Annotated[
        list[Path] | None,
        typer.Option(
            help="inpaint: picture that is white where to generate; one, or one per picture.",
            rich_help_panel=HOW,
            show_default=False,
        ),
    ] = None,
    box: Annotated[
        str | None,
        typer.Option(
            help="edit: left,top,right,bottom in pixels.", rich_help_panel=HOW, show_default=False
        ),
    ] = None,
    ratio: Annotated[
        str | None,
        typer.Option(
            help="outpaint: times as high and as wide, 1:2 is twice as wide.",
            rich_help_panel=HOW,
            show_default=False,
        ),
    ] = None,
    margins: Annotated[
        str | None,
        typer.Option(
            help="outpaint: pixels, one number or top,right,bottom,left.",
            rich_help_panel=HOW,
            show_default=False,
        ),
    ] = None,
    fill: Annotated[
        str | None,
        typer.Option(
            help="outpaint: what the encoder sees in the margins: reflect, edge or smooth.",
            rich_help_panel=HOW,
            show_default="reflect",
        ),
    ] = None,
    start: Annotated[
        int | None,
        typer.Option(
            help="refine: the first step that is generated.",
            rich_help_panel=HOW,
            show_default="the first larger than the picture",
        ),
    ] = None,
    encode_at: Annotated[
        str | None,
        typer.Option(
            help="refine: encode the picture at the target size, or at its own.",
            rich_help_panel=HOW,
            show_default="target",
        ),
    ] = None,
    rule: Annotated[
        str | None,
        typer.Option(
            help="Generate a cell if any, more than half (area) or all of its pixels are to be.",
            rich_help_panel=HOW,
            show_default="area",
        ),
    ] = None,
    feather: Annotated[
        int | None,
        typer.Option(
            help="Pixels over which known ones fade into generated ones; 0 is a hard edge.",
            rich_help_panel=HOW,
            show_default="half a latent cell",
        ),
    ] = None,
    blend: Annotated[
        bool | None,
        typer.Option(
            help="Put the known pixels back, or leave the tokenizer's picture of them.",
            rich_help_panel=HOW,
            show_default="blend",
        ),
    ] = None,
    num: Annotated[int, typer.Option(help="Results per picture.")] = 1,
    size: Annotated[
        str | None,
        typer.Option(
            help="Height x width in pixels: of the result of refine; else what the model works at.",
            show_default="the picture's own",
        ),
    ] = None,
    steps: options.Steps = None,
    sampler: options.Sampler = None,
    preset: options.Preset = "default",
    seed: options.Seed = None,
    max_side: Annotated[
        int | None,
        typer.Option(help="Longest side in pixels of a picture.", show_default="8192"),
    ] = None,
    out: options.Out = Path("out"),
    device: options.Device = "auto",
    dtype: options.Dtype = "fp32",
    mark: options.Mark = True,
    **sampling: Any,
) -> None:
    """Change pictures with a model that was only trained to generate.

    Writes 00000.png ... to --out, at the size of the picture or of its new canvas; numbers go on
    after those that are there. Every PNG carries the settings. The pictures can be of any size and
    mode.

    Example: flexvar edit inpaint --model DIR --image a.png --mask m.png --label cat --out out/
    """
    from flexvar.errors import FlexvarError

    if not label and not prompt:
        raise FlexvarError(
            "There is no label; give one: --label 3 (or a class name, or none), or words to a "
            'model that takes them: --prompt "a cat".'
        )
    if label and prompt:
        raise FlexvarError(
            f"--label {label[0]} and --prompt {prompt[0]!r} both say what to generate; give one."
        )
    given: dict[str, Any] = {
        "mask": mask,
        "box": None if box is None else _numbers("--box", box, (4,)),
        "ratio": None if ratio is None else _ratio(ratio),
        "margins": None if margins is None else _numbers("--margins", margins, (1, 4)),
        "fill": fill,
        "start": start,
        "encode_at": encode_at,
        "rule": rule,
        "feather": feather,
        "blend": blend,
        "size": None if size is None else options.parse_size(size),
    }
    given = {name: value for name, value in given.items() if value is not None}
    for name in given:
        tasks = BELONGS.get(name, tuple(Task))
        if task not in tasks:
            raise FlexvarError(
                f"--{name.replace('_', '-')} belongs to {', '.join(tasks)}, not to {task}."
            )
    needed = NEEDED.get(task)
    if needed is not None and needed not in given:
        raise FlexvarError(f"{task} needs --{needed}.")
    if task is Task.outpaint and ("ratio" in given) == ("margins" in given):
        raise FlexvarError("outpaint needs either --ratio or --margins, for example --ratio 1:2.")
    masks = given.pop("mask", [])
    for name, found in (("--mask", masks), ("--label" if label else "--prompt", label or prompt)):
        if found is not None and len(found) not in (0, 1, len(image)):
            raise FlexvarError(
                f"{name}: {len(found)} for {len(image)} pictures; give one, or one each."
            )
    for path in (*image, *masks):
        if not path.is_file():
            raise FlexvarError(f"There is no picture {path}.")
    given |= {"steps": None if steps is None else options.parse_steps(steps), "num": num}
    if max_side is not None:
        given["max_side"] = max_side
    options.check_out(out)

    import secrets

    from flexvar.pipeline import Pipeline
    from flexvar.result import next_number

    begin = next_number(out)
    pipe = Pipeline.from_pretrained(model, device=device, dtype=dtype, preset=preset)
    names_known = pipe.class_names or ()
    named = label or prompt or []
    wanted = [None if one == "none" and one not in names_known else one for one in named]
    pipe.values(*((wanted, None) if label else (None, wanted)))
    seed = secrets.randbelow(2**31) if seed is None else seed
    names: list[Path] = []
    for number, path in enumerate(image):
        one = dict(given)
        if masks:
            one["mask"] = masks[number % len(masks)]
        result = getattr(pipe, task.value)(
            path,
            **{"label" if label else "prompt": wanted[number % len(wanted)]},
            negative=negative,
            sampler=sampler,
            **sampling,
            seed=seed,
            first_index=number * num,
            **one,
        )
        names += result.save(out, start=begin + number * num, mark=mark)
    height, width = result.settings["size"]
    count = f"{len(names)} image" + ("s" if len(names) > 1 else "")
    where = names[0] if len(names) == 1 else out
    say(f"{count} in {where}, the last of {height}x{width} px (seed {seed})")


def _numbers(option: str, text: str, lengths: tuple[int, ...]) -> Any:
    """The whole numbers of ``8,0,8,0``, or one number alone."""
    from flexvar.errors import FlexvarError

    parts = [part.strip() for part in text.split(",")]
    if len(parts) not in lengths or not all(re.fullmatch(r"-?[0-9]+", part) for part in parts):
        names = "left,top,right,bottom" if option == "--box" else "one, or top,right,bottom,left"
        raise FlexvarError(f"{option}: got {text!r}; expected whole numbers: {names}.")
    numbers = tuple(int(part) for part in parts)
    return numbers[0] if len(numbers) == 1 else numbers


def _ratio(text: str) -> tuple[float, float]:
    """(rows, columns) of ``1:2``, or of ``1.5`` for both."""
    from flexvar.errors import FlexvarError

    parts = text.replace("x", ":").split(":")
    try:
        rows, columns = float(parts[0]), float(parts[-1])
    except ValueError:
        rows, columns = 0.0, 0.0
    if len(parts) > 2 or not (rows > 0 and columns > 0):
        raise FlexvarError(
            f"--ratio: got {text!r}; expected how many times as high and as wide, as in 1:2."
        )
    return rows, columns
