"""``python -m benchmarks.ablation``: train side by side what the suite measures; write its page.

python -m benchmarks.ablation train --jobs 2      # resumable; the suite then only measures
python -m benchmarks.ablation write results.jsonl

"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.ablation import page, trained
from benchmarks.cases import ablation
from benchmarks.suite import Options, Red
from flexvar.errors import FlexvarError
from flexvar.memory import keep_freed_memory

app = typer.Typer(
    help="The ablation and its page.", no_args_is_help=True, pretty_exceptions_enable=False
)
Quick = Annotated[bool, typer.Option("--quick", help="A handful of steps each.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or auto.")]
Seed = Annotated[int, typer.Option(help="Of weights, data order and samples.")]
Root = Annotated[Path, typer.Option(help="Directory of all runs.")]


@app.command()
def run(
    out: Annotated[Path, typer.Option(help="JSON Lines file that rows are added to.")],
    jobs: Annotated[int, typer.Option(min=1, help="Cases side by side, one thread each.")] = 1,
    quick: Quick = False,
    device: Device = "cpu",
    seed: Seed = 0,
    filter_: Annotated[str, typer.Option("--filter", help="Only cases with this text.")] = "",
    budget: Annotated[float | None, typer.Option(help="Start none after so many seconds.")] = None,
    root: Root = trained.WORK,
) -> None:
    """Train and measure every case that has no row yet; go on with runs that were stopped.

    Example: python -m benchmarks.ablation run --jobs 2 --out rows.jsonl
    """
    cases = ablation.cases(Options(quick=quick, device=device, seed=seed), root=root)
    chosen = [case for case in cases if filter_ in case.name]
    if not chosen:
        names = ", ".join(case.name for case in cases)
        raise FlexvarError(f"--filter: no case contains {filter_!r}. Cases: {names}.")
    rows = _rows(out) if out.is_file() else []
    done = [(row["case"], row["settings"]) for row in rows if row.get("figures")]
    waiting = [case.name for case in chosen if (case.name, _plain(case.settings)) not in done]
    if left := len(chosen) - len(waiting):
        typer.echo(f"{left} of {len(chosen)} cases have their row in {out} already")
    running: dict[str, tuple[subprocess.Popen[bytes], float]] = {}
    began, failed = time.monotonic(), False
    while waiting or running:
        if waiting and budget is not None and time.monotonic() - began > budget:
            typer.echo(f"{len(waiting)} cases left; the same command goes on with them.")
            waiting = []
        while waiting and len(running) < jobs:
            name = waiting.pop(0)
            given = ["--name", name, "--device", device, "--seed", str(seed), "--root", str(root)]
            command = [
                sys.executable,
                "-m",
                "benchmarks.ablation",
                "one",
                *given,
                "--out",
                str(out),
            ]
            running[name] = subprocess.Popen(command + ["--quick"] * quick), time.monotonic()
        for name, (process, start) in list(running.items()):
            code = process.poll()
            if code is None:
                continue
            del running[name]
            failed |= code != 0
            now = time.monotonic()
            state = "done" if code == 0 else f"FAILED ({code})"
            typer.echo(f"[{now - began:5.0f} s] {name}: {state} in {now - start:.0f} s")
        time.sleep(0.1)
    raise typer.Exit(1 if failed else 0)


@app.command(hidden=True)
def one(
    name: Annotated[str, typer.Option()],
    out: Annotated[Path, typer.Option()],
    quick: Quick = False,
    device: Device = "cpu",
    seed: Seed = 0,
    root: Root = trained.WORK,
) -> None:
    """Run one case in this process and add its row."""
    from benchmarks import record

    cases = ablation.cases(Options(quick=quick, device=device, seed=seed), root=root)
    case = next(case for case in cases if case.name == name)
    row: dict[str, Any] = {"suite": case.suite, "case": name, "settings": _plain(case.settings)}
    keep_freed_memory()
    start = time.perf_counter()
    try:
        figures = case.run()
        row |= {key: figures.pop(key) for key in ("parity", "implementation") if key in figures}
        row["figures"] = figures
    except Red as error:
        row |= {"status": "red", "reason": str(error), "parity": error.parity}
    row["seconds"] = round(time.perf_counter() - start, 1)
    record.append(row, out)
    if "reason" in row:
        typer.echo(f"{name}: {row['reason']}", err=True)
        raise typer.Exit(1)


def _rows(path: Path) -> list[dict[str, Any]]:
    """The ablation's rows of a JSON Lines file. Raises `FlexvarError` if it cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise FlexvarError(f"{path}: {error.strerror or error}.") from None
    return [row for row in map(json.loads, lines) if row.get("suite") == ablation.SUITE]


def _plain(settings: Mapping[str, Any]) -> Any:
    """As read back from JSON."""
    return json.loads(json.dumps(settings))


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
    rows = [row for row in _rows(results) if bool(row["settings"].get("quick")) == quick]
    if not rows:
        raise FlexvarError(f"{results} holds no rows of the ablation; run the suite first.")
    typer.echo(str(page.write(rows, trained.root_of(quick, root), out)))


if __name__ == "__main__":
    try:
        app()
    except FlexvarError as error:
        typer.secho(f"Error: {error}", fg=typer.colors.RED, err=True)
        raise SystemExit(2) from None
