"""``python -m benchmarks``: run a suite, and see what it found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import record
from benchmarks.cases import SUITES, load
from flexvar.errors import FlexvarError
from flexvar.memory import keep_freed_memory

app = typer.Typer(
    help="Measure flexvar, always against the plain way in the same run.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


@app.command("list")
def list_suites() -> None:
    """Name the suites."""
    for name, (_, summary) in SUITES.items():
        typer.echo(f"{name}  {summary}")


@app.command()
def run(
    suite: Annotated[str, typer.Argument(help="A name from `python -m benchmarks list`.")],
    quick: Annotated[bool, typer.Option("--quick", help="Small models, few repeats.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="JSON Lines file; by default one per machine.")
    ] = None,
) -> None:
    """Run a suite, print its rows and add them to the results file of this machine.

    Example: python -m benchmarks run generate-cpu
    """
    if suite not in SUITES:
        raise FlexvarError(f"Unknown suite {suite!r}. Suites: {', '.join(SUITES)}.")
    keep_freed_memory()  # as flexvar's own commands do
    failed = False
    for row in load(suite)(quick=quick):
        _show(row)
        failed |= "error" in row
        if not quick or out is not None:
            path = record.append(row, out)
            typer.echo(f"  added to {path}")
    raise typer.Exit(1 if failed else 0)


def _show(row: dict[str, Any]) -> None:
    typer.secho(row["case"], bold=True)
    if "error" in row:
        typer.secho(f"  {row['error']}", fg=typer.colors.RED)
        return
    if "figures" in row:
        for name, value in row["figures"].items():
            typer.echo(f"  {name}: {value}")
        return
    for who in ("flexvar", "plain"):
        part = row[who]
        split = ", ".join(f"{p} {part[f'{p}_s']:.2f}" for p in ("backbone", "sampling", "decoder"))
        typer.echo(
            f"  {who:8} {part['median_s']:.3f} s ({part['low_s']:.3f} to {part['high_s']:.3f}, "
            f"{part['repeats']} runs): {split}"
        )
    typer.echo(f"  plain / flexvar = {row['ratio']:.2f}")


def main() -> None:
    """Run a command; a user's mistake is a message and exit code 2."""
    try:
        app()
    except FlexvarError as error:
        typer.secho(f"Error: {error}", fg=typer.colors.RED, err=True)
        raise SystemExit(2) from None


main()
