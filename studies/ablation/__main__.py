"""``python -m studies.ablation ROWS.jsonl``: the ablation's page and pictures.

The rows come from ``python -m benchmarks run ablation --jobs 2 --out ROWS.jsonl``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.harness import command, record
from flexvar.errors import FlexvarError
from studies.ablation import page, trained
from studies.ablation.suite import SUITE


def write(
    results: Annotated[Path, typer.Argument(help="JSON Lines file with the suite's rows.")],
    out: Annotated[Path, typer.Option(help="Directory of page and pictures.")] = record.ROWS,
    quick: Annotated[bool, typer.Option("--quick", help="The rows of quick runs.")] = False,
    root: Annotated[Path, typer.Option(help="Directory of all runs.")] = trained.WORK,
) -> None:
    """Write ablation.md and its pictures from measured rows; prose below the tables is kept.

    Example: python -m studies.ablation rows.jsonl
    """
    rows = record.of_suite(results, SUITE, quick=quick)
    if not rows:
        raise FlexvarError(f"{results} holds no rows of the ablation; run the suite first.")
    typer.echo(str(page.write(rows, trained.root_of(quick, root), out)))


if __name__ == "__main__":
    command.run(write)
