"""``flexvar convert``: released files -> a checkpoint directory."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer


def convert(
    out: Annotated[Path, typer.Option(help="Directory to write.", show_default=False)],
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="FlexVAE.pth, vae_ch160v4096z32.pth, vq_ds16_c2i.pt ...", show_default=False
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="FlexVARd16-epo179.pth, var_d16.pth ... or a training checkpoint.",
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
) -> None:
    """Convert released files of VAR, FlexVAR or LlamaGen to a checkpoint directory.

    A tokenizer alone converts too. Depth, widths, heads, vocabulary and all else are read from
    the tensors; files that would run code are refused.

    Example: flexvar convert --tokenizer FlexVAE.pth --model FlexVARd16-epo179.pth --out flexvar-d16
    """
    from flexvar.errors import FlexvarError

    sides = None
    if scales is not None:
        texts = [text.strip() for text in scales.split(",")]
        if not all(re.fullmatch(r"[1-9][0-9]*", text) for text in texts):
            raise FlexvarError(f"--scales: got {scales!r}; expected sides such as 1,2,3,4,5.")
        sides = [int(text) for text in texts]
    names = None
    if class_names is not None:
        try:
            names = class_names.read_text(encoding="utf-8").strip().splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise FlexvarError(f"--class-names: {class_names} cannot be read: {error}") from None
    if out.is_file():
        raise FlexvarError(f"--out {out} is a file; name a directory.")

    from flexvar_plugins.released import convert as convert_files

    pipe = convert_files(tokenizer=tokenizer, model=model, scales=sides, class_names=names)
    pipe.save_pretrained(out)
    for line in pipe.describe():
        typer.echo(line)
    typer.echo(f"Written to {out}")
