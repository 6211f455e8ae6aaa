"""``python -m studies.backbones ROWS.jsonl``: the comparison's page and picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.harness import command, record
from flexvar.errors import FlexvarError
from studies.ablation import trained
from studies.backbones import page
from studies.backbones.suite import SUITE, root_of


def write(
    results: Annotated[Path, typer.Argument(help="JSON Lines file with the suite's rows.")],
    out: Annotated[Path, typer.Option(help="Directory of page and picture.")] = record.ROWS,
    quick: Annotated[bool, typer.Option("--quick", help="The rows of quick runs.")] = False,
    root: Annotated[Path, typer.Option(help="Directory of all runs.")] = trained.WORK,
) -> None:
    """Write backbones.md and backbones.png from measured rows.

    Example: python -m studies.backbones rows.jsonl
    """
    rows = record.of_suite(results, SUITE, quick=quick)
    if not rows:
        raise FlexvarError(f"{results} holds no such rows of the comparison; run the suite first.")
    typer.echo(str(page.write(rows, root_of(quick, root), out)))


if __name__ == "__main__":
    command.run(write)
