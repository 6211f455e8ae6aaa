"""``python -m benchmarks.editing``: the zero-shot tasks of any checkpoint."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.harness import command, record
from benchmarks.suites import editing_tasks as tasks
from benchmarks.suites.editing import COUNT, QUICK_COUNT, SUITE, told


def measure(
    model: Annotated[str, typer.Option(help="Checkpoint directory or bundled name.")] = "photos",
    data: Annotated[str, typer.Option(help="The set it was trained on.")] = "photos",
    count: Annotated[int, typer.Option(min=1, help="Pictures per figure.")] = COUNT,
    quick: Annotated[bool, typer.Option("--quick", help=f"{QUICK_COUNT} pictures.")] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda ...")] = "cpu",
    out: Annotated[
        Path, typer.Option(help="Directory for rows.jsonl, sheets and the plot.")
    ] = Path("out/editing"),
) -> None:
    """Edit with a checkpoint and say what the results are worth, beside the plain way.

    Example: python -m benchmarks.editing --model runs/model --data pictures
    """
    count = QUICK_COUNT if quick else count
    settings = {"model": model, "data": data, "pictures": count, "device": device, "quick": quick}
    for name in tasks.TASKS:
        begun = time.perf_counter()
        figures = tasks.measure(name, model, data, count, out, device)
        seconds = round(time.perf_counter() - begun, 1)
        row = {"suite": SUITE, "case": name, "settings": settings, "status": "ok", "seed": 0}
        record.append({**row, "figures": figures, "seconds": seconds}, out / "rows.jsonl")
        typer.secho(f"{name} ({seconds} s)", bold=True)
        for figure, value in figures.items():
            typer.echo(f"  {figure}: {told(value)}")
    typer.echo(str(out))


if __name__ == "__main__":
    command.run(measure)
