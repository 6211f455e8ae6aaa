"""``python -m benchmarks.ablation``: train side by side what the suite measures; write its page.

python -m benchmarks.ablation train --jobs 2      # resumable; the suite then only measures
python -m benchmarks.ablation write results.jsonl

"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.ablation import page, plan, trained
from benchmarks.ablation.trained import Place
from flexvar.errors import FlexvarError

app = typer.Typer(
    help="The ablation's training and page.", no_args_is_help=True, pretty_exceptions_enable=False
)
Quick = Annotated[bool, typer.Option("--quick", help="A handful of steps each.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or auto.")]
Seed = Annotated[int, typer.Option(help="Of weights, data order and samples.")]
Root = Annotated[Path, typer.Option(help="Directory of all runs.")]


@app.command()
def train(
    jobs: Annotated[int, typer.Option(min=1, help="Runs side by side, one thread each.")] = 1,
    quick: Quick = False,
    device: Device = "cpu",
    seed: Seed = 0,
    filter_: Annotated[str, typer.Option("--filter", help="Only runs with this text.")] = "",
    budget: Annotated[float | None, typer.Option(help="Start none after so many seconds.")] = None,
    root: Root = trained.WORK,
) -> None:
    """Train every run that is not finished, tokenizers first; go on with those that were stopped.

    Example: python -m benchmarks.ablation train --jobs 2
    """
    names = [name for name in runs(quick) if filter_ in name]
    if not names:
        raise FlexvarError(
            f"--filter: no run contains {filter_!r}. Runs: {', '.join(runs(quick))}."
        )
    began, failed = time.monotonic(), []
    waiting = list(names)
    running: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
    while waiting or running:
        spent = time.monotonic() - began
        if budget is not None and spent > budget and waiting:
            typer.echo(f"{len(waiting)} runs left; the same command goes on with them.")
            waiting = []
        while waiting and len(running) < jobs:
            name = waiting.pop(0)
            given = ["--name", name, "--device", device, "--seed", str(seed), "--root", str(root)]
            command = [sys.executable, "-m", "benchmarks.ablation", "one", *given]
            running[name] = subprocess.Popen(command + ["--quick"] * quick), time.monotonic()
        for name, (process, start) in list(running.items()):
            code = process.poll()
            if code is None:
                continue
            del running[name]
            failed += [name] if code else []
            state = f"failed ({code})" if code else "done"
            done = time.monotonic()
            typer.echo(f"[{done - began:6.0f} s] {name}: {state} in {done - start:.0f} s")
        time.sleep(0.1)
    if failed:
        typer.echo(f"Failed: {', '.join(failed)}.", err=True)
        raise typer.Exit(1)


@app.command(hidden=True)
def one(
    name: Annotated[str, typer.Option()],
    quick: Quick = False,
    device: Device = "cpu",
    seed: Seed = 0,
    root: Root = trained.WORK,
) -> None:
    """Train one run, in this process."""
    import torch

    budget = plan.QUICK if quick else plan.FULL
    place = Place(trained.root_of(quick, root), budget, device, seed)
    if device == "cpu":
        torch.set_num_threads(1)
    for run in plan.tokenizers(budget):
        if f"tokenizer: {run.name}" == name:
            trained.tokenizer(run, place)
    for model in plan.models(budget):
        if model.name == name:
            trained.model(model, place)


@app.command()
def write(
    results: Annotated[Path, typer.Argument(help="JSON Lines file with the suite's rows.")],
    out: Annotated[Path, typer.Option(help="Directory of page and pictures.")] = page.RESULTS,
    quick: Quick = False,
    root: Root = trained.WORK,
) -> None:
    """Write ablation.md and its pictures from measured rows; what stands below them is kept.

    Example: python -m benchmarks.ablation write benchmarks/results/MACHINE.jsonl
    """
    try:
        lines = results.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise FlexvarError(f"{results}: {error.strerror or error}.") from None
    rows = [row for row in map(json.loads, lines) if row.get("suite") == "ablation"]
    rows = [row for row in rows if bool(row["settings"].get("quick")) == quick]
    if not rows:
        raise FlexvarError(f"{results} holds no rows of the ablation; run the suite first.")
    typer.echo(str(page.write(rows, trained.root_of(quick, root), out)))


def runs(quick: bool) -> list[str]:
    """The names of all runs, in the order in which they are trained."""
    budget = plan.QUICK if quick else plan.FULL
    tokenizers = [f"tokenizer: {run.name}" for run in plan.tokenizers(budget)]
    return [*tokenizers, *(run.name for run in plan.models(budget))]


if __name__ == "__main__":
    try:
        app()
    except FlexvarError as error:
        typer.secho(f"Error: {error}", fg=typer.colors.RED, err=True)
        raise SystemExit(2) from None
