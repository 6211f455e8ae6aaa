"""``flexvar convert``: released files -> a checkpoint directory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from flexvar.cli.output import say


def convert(
    out: Annotated[Path, typer.Option(help="Directory to write.", show_default=False)],
    options: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Options of the converter's own."),
    ] = None,
    tokenizer: Annotated[
        list[Path] | None,
        typer.Option(
            help="File of the tokenizer; again for more shards, or their index.json.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        list[Path] | None,
        typer.Option(
            help="File of the model, or a training checkpoint; again for more shards.",
            show_default=False,
        ),
    ] = None,
    scales: Annotated[
        str | None,
        typer.Option(help="Sides of the training list, if the file cannot tell: 1,2,3,4."),
    ] = None,
    class_names: Annotated[
        Path | None, typer.Option(help="Text file with one class name per line.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Where a file holds both: raw, or ema, the average over training. [default: ema]",
            show_default=False,
        ),
    ] = None,
    converter: Annotated[
        str | None,
        typer.Option(help="The converter, where several know the files.", show_default=False),
    ] = None,
) -> None:
    """Convert released files to a checkpoint directory; `flexvar plugins` lists the converters.

    A tokenizer alone converts too. Depth, widths, heads, vocabulary and all else are read from
    the tensors; files that would run code are refused.

    Example: flexvar convert --tokenizer FlexVAE.pth --model FlexVARd16-epo179.pth --out flexvar-d16
    """
    from flexvar.errors import FlexvarError
    from flexvar.files import read_text

    sides = None
    if scales is not None:
        texts = [text.strip() for text in scales.split(",")]
        if not all(re.fullmatch(r"[1-9][0-9]{0,8}", text) for text in texts):
            raise FlexvarError(f"--scales: got {scales!r}; expected sides such as 1,2,3,4,5.")
        sides = [int(text) for text in texts]
    names = None
    if class_names is not None:
        try:
            names = read_text(class_names).strip().splitlines()
        except FlexvarError as error:
            raise FlexvarError(f"--class-names: {error}") from None
    if out.is_file():
        raise FlexvarError(f"--out {out} is a file; name a directory.")
    if weights not in (None, "raw", "ema"):
        raise FlexvarError(f"--weights: got {weights!r}; expected raw or ema.")

    from flexvar.convert import convert as convert_files

    pipe = convert_files(
        tokenizer=tokenizer or None,
        model=model or None,
        scales=sides,
        class_names=names,
        weights="raw" if weights == "raw" else "ema" if weights else None,
        options=options or (),
        converter=converter,
    )
    pipe.save_pretrained(out)
    for line in pipe.describe():
        say(line)
    say(f"Written to {out}")
