"""``flexvar data``: what a source of pictures holds, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flexvar.cli.output import tell

if TYPE_CHECKING:
    from rich.console import Console

    from flexvar.data.report import Survey

MOST_CLASSES = 40
MOST_FILES = 200


def data(
    source: Annotated[
        str,
        typer.Argument(
            metavar="PATH",
            help="Folder, shards, list, hf:NAME, or a built-in set: photos, digits, emoji.",
            show_default=False,
        ),
    ],
    options: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Options of the data, as in a recipe: label_column=species streaming=true.",
            show_default=False,
        ),
    ] = None,
    sheet: Annotated[
        Path | None,
        typer.Option(help="Picture file to write a contact sheet to, as PNG.", show_default=False),
    ] = None,
    size: Annotated[
        str, typer.Option(help="Side or HEIGHTxWIDTH in pixels that training would use.")
    ] = "64",
    buckets: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Show the sizes that pictures get in buckets of sides of so many pixels.",
            show_default="none",
        ),
    ] = None,
) -> None:
    """Report on pictures to train on: classes, sizes, and files that cannot be read.

    Every picture is decoded. The contact sheet shows samples as training crops them.

    Example: flexvar data photographs/ --sheet sheet.png
    """
    from flexvar.config import override, parse
    from flexvar.data import DataConfig
    from flexvar.data.report import sheet as make_sheet
    from flexvar.data.report import survey
    from flexvar.errors import FlexvarError
    from flexvar.files import whole_file

    sides = size.lower().split("x")
    if not all(side.isdecimal() for side in sides) or len(sides) > 2:
        raise FlexvarError(f"--size: got {size!r}; expected pixels such as 64 or 64x96.")
    if sheet is not None and not sheet.absolute().parent.is_dir():
        raise FlexvarError(f"--sheet {sheet}: there is no folder {sheet.absolute().parent}.")
    numbers = [int(side) for side in sides]
    config = parse(
        DataConfig,
        override(
            {
                "source": source,
                "size": numbers[0] if len(numbers) == 1 else numbers,
                "buckets": buckets,
            },
            # A recipe has them in a section.
            [text.removeprefix("data.") for text in options or []],
        ),
    )

    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=None)
        result = survey(config, lambda total: bar.update(task, total=total, advance=1))
    _print(Console(highlight=False), source, config.height_width, result)
    if sheet is not None:
        picture = make_sheet(config, result)
        with whole_file(sheet) as temporary:
            picture.save(temporary, format="PNG")
        tell(f"Contact sheet: {sheet}")


def _print(console: Console, source: str, size: tuple[int, int], result: Survey) -> None:
    from statistics import median_low

    from rich.markup import escape
    from rich.table import Table

    from flexvar.text import printable

    train, val = result.counts["train"], result.counts["val"]
    table = Table("number", "class", title=escape(printable(source)), title_justify="left")
    table.add_column("train", justify="right")
    table.add_column("val", justify="right")
    for number, name in list(enumerate(result.class_names))[:MOST_CLASSES]:
        table.add_row(str(number), escape(printable(name)), str(train[number]), str(val[number]))
    if len(result.class_names) > MOST_CLASSES:
        table.add_row("", f"{len(result.class_names) - MOST_CLASSES} more")
    table.add_section()
    table.add_row("", "all", str(sum(train.values())), str(sum(val.values())))
    console.print(table)

    if result.sizes:
        sizes = Table("pixels", "min", "median", "max")
        heights, widths = zip(*result.sizes, strict=True)
        for name, values in (("height", heights), ("width", widths)):
            sizes.add_row(name, *(str(f(values)) for f in (min, median_low, max)))
        console.print(sizes)

    def say(text: str) -> None:
        # Not through the tables' console: file names are neither markup nor to be broken.
        tell(text)

    if small := result.small(size):
        say(f"Smaller than {size[0]}x{size[1]}, would be enlarged: {small}")
    if result.empty:
        say(f"Classes without a readable picture to train on: {', '.join(result.empty)}")
    if result.strays:
        say(f"Beside the class folders, left out: {', '.join(result.strays[:10])}")
    if result.left_out:
        kinds = ", ".join(f"{count} {kind}" for kind, count in result.left_out.most_common(10))
        say(f"Not counted as pictures, left out: {kinds}")
    for line in result.buckets:
        tell(f"Bucket {line}")
    for line in result.notes:
        say(f"{line[:1].upper()}{line[1:]}")
    say(f"Unreadable: {len(result.unreadable)}")
    for reason in result.unreadable[:MOST_FILES]:
        say(f"  {reason}")
    if len(result.unreadable) > MOST_FILES:
        say(f"  and {len(result.unreadable) - MOST_FILES} more")
