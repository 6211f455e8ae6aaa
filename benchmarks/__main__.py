"""``python -m benchmarks``: run suites, compare two runs, report what was found."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks import suites as known
from benchmarks.harness import checkout, command, load, record
from benchmarks.harness.record import Row
from flexvar.errors import FlexvarError

app = typer.Typer(
    help="Measure flexvar: every figure behind a parity check, with its spread and machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
LONG = 8  # values of a list that are shown; longer ones are in the row
Quick = Annotated[bool, typer.Option("--quick", help="Few cases, small models.")]
Device = Annotated[str, typer.Option(help="cpu, cuda ...; auto is CUDA if any.")]
Seed = Annotated[int, typer.Option(help="Of weights and inputs.")]
Backbones = Annotated[
    list[str] | None,
    typer.Option(
        "--backbone",
        metavar="NAME [KEY=VALUE...]",
        help="A backbone, a plugin's too, with options of its own; give it again for more.",
    ),
]


@app.command("list")
def list_suites(
    suite: Annotated[str | None, typer.Argument(help="Name the cases of this suite.")] = None,
    quick: Quick = False,
    device: Device = "auto",
    backbone: Backbones = None,
) -> None:
    """Name the suites, or the cases of one.

    Example: python -m benchmarks list generate --quick
    """
    if suite is None:
        names = known.names()
        width = max(map(len, names))
        for name in names:
            typer.echo(f"{name.ljust(width)}  {known.summary(name)}")
        return
    for case in known.load(suite).cases(_options(quick, device, 0, backbone)):
        typer.echo(case.name)


@app.command()
def run(
    suites: Annotated[
        list[str],
        typer.Argument(
            metavar="SUITE...",
            help="Names from `python -m benchmarks list`; `all` is all but ablation and backbones.",
        ),
    ],
    quick: Quick = False,
    device: Device = "auto",
    filter_: Annotated[
        str, typer.Option("--filter", metavar="TEXT", help="Only cases whose name has this text.")
    ] = "",
    backbone: Backbones = None,
    budget: Annotated[
        float | None, typer.Option(min=0, help="Start no new case after so many seconds.")
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(min=0, help="Stop a case that takes more seconds; it failed.")
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(min=1, help="Cases side by side; timings want 1, trainings may have more."),
    ] = 1,
    seed: Seed = 0,
    model: Annotated[
        str, typer.Option(help="Of editing and held-out: a checkpoint, or a bundled name.")
    ] = "photos",
    data: Annotated[
        str, typer.Option(help="The set the model was trained on, as `flexvar data` takes it.")
    ] = "photos",
    again: Annotated[
        bool, typer.Option("--again", help="Also cases that have a row of this commit.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="JSON Lines file.", show_default="one per machine in benchmarks/rows"),
    ] = None,
) -> None:
    """Run suites; each case adds its row to the file of this machine as it ends.

    A row says how busy the machine was, and its limits are measured beside it. What comes with
    flexvar, in benchmarks/results, is not touched.

    The same command goes on where it was stopped. Exit code 1 if a row is red or failed.

    Example: python -m benchmarks run generate --quick

    Example: python -m benchmarks run all --device cuda --budget 600

    Example: python -m benchmarks run editing --model runs/model --data pictures

    Example: python -m benchmarks run backbones --backbone markov history=3 --backbone delta
    """
    from benchmarks.harness.runner import Run, choose

    options = replace(_options(quick, device, seed, backbone), model=model, data=data)
    found = {}
    for name in _named(suites):
        try:
            found[name] = known.load(name).cases(options)
        except FlexvarError as error:
            if name in suites:
                raise
            typer.secho(f"{name} is left out: {error}", fg=typer.colors.RED, err=True)
    chosen = choose(found, filter_)
    path = record.results_file() if out is None else out
    if path.is_dir():
        raise FlexvarError(f"--out {path} is a directory; name a file.")
    measure = Run(
        options, path, again, budget, timeout, jobs, show=_show, say=lambda t: typer.echo(t)
    )
    sound = True
    for name, wanted in chosen.items():
        if len(chosen) > 1:
            typer.secho(f"{name}: {known.summary(name)}", bold=True)
        sound &= measure(name, wanted)
    typer.echo(f"rows: {path}")
    raise typer.Exit(0 if sound else 1)


@app.command()
def compare(
    before: Annotated[Path, typer.Argument(help="Rows of the earlier run.")],
    after: Annotated[Path, typer.Argument(help="Rows of the later run.")],
    least: Annotated[
        float, typer.Option(min=0, help="Relative change below which nothing is said to change.")
    ] = 0.1,
) -> None:
    """Set two runs against each other, row by row; exit code 1 if anything is slower.

    Example: python -m benchmarks compare before.jsonl after.jsonl
    """
    from benchmarks.harness import compare as comparing

    result = comparing.compare(record.read(before), record.read(after), least=least)
    for line in result.lines():
        typer.echo(line)
    raise typer.Exit(1 if result.worse else 0)


@app.command()
def report(
    results: Annotated[
        list[Path] | None,
        typer.Argument(help="Results files.", show_default="what `run` measured in this checkout"),
    ] = None,
    published: Annotated[
        bool,
        typer.Option("--published", help="Also the rows that come with flexvar, under own titles."),
    ] = False,
    out: Annotated[Path, typer.Option(help="Directory for page and tables.")] = Path(
        "out/benchmarks"
    ),
) -> None:
    """Make one HTML page and Markdown tables; the page's path stands alone on the last line.

    Example: python -m benchmarks report --out out/benchmarks
    """
    from benchmarks.harness import report as reporting

    if results:
        stems = [path.stem for path in results]
        found = {
            path.stem if stems.count(path.stem) == 1 else str(path): record.read(path)
            for path in results
        }
    else:
        found = record.find(published=False)
    if published:
        found |= record.find(published=True)
    if not found:
        raise FlexvarError(
            "Nothing was measured in this checkout yet; measure something: python -m benchmarks "
            "run generate --quick. --published reports the rows that come with flexvar."
        )
    typer.echo(str(reporting.write(found, out)))


def _named(suites: list[str]) -> list[str]:
    """The suites, each once; ``all`` is every one but those that train models for an hour."""
    named = (
        [name for name in known.names() if name not in known.TRAINING] if "all" in suites else []
    )
    return list(dict.fromkeys([*named, *(name for name in suites if name != "all")]))


def _options(quick: bool, device: str, seed: int, backbones: list[str] | None) -> Any:
    from benchmarks.harness.suite import Options, parse_backbone
    from flexvar.ops.precision import parse_device
    from flexvar.plugin import default_registry

    for name in backbones or ():
        # An unknown name or option is said before anything runs.
        kind, given = parse_backbone(name)
        fields = default_registry().load("backbone", kind).Config.model_fields
        for option in given:
            if option not in fields:
                raise FlexvarError(
                    f"--backbone {name}: {kind} has no option {option!r}; it has "
                    f"{', '.join(fields)}."
                )
    chosen = tuple(dict.fromkeys(backbones)) if backbones else None
    return Options(quick, str(parse_device(device)), seed, chosen)


def _show(row: Row) -> None:
    state = record.status(row)
    if state != "ok":
        typer.secho(f"{row['case']}: {state.upper()}: {row['reason']}", fg=typer.colors.RED)
        return
    typer.secho(f"{row['case']} ({row['seconds']:.1f} s)", bold=True)
    if row.get("load", {}).get("busy"):
        typer.secho(f"  busy machine: {load.told(row['load'])}", fg=typer.colors.YELLOW)
    ran = [("ran", row["implementation"])] if row.get("implementation") else []
    for name, value in [*ran, *row["figures"].items()]:
        typer.echo(f"  {name}: {_text(value)}")


def _text(value: Any) -> str:
    from benchmarks.harness.measure import is_timing

    if is_timing(value):
        first = f", first {value['first_call_s']:.3f} s" if "first_call_s" in value else ""
        return (
            f"{value['median_s']:.4f} s ({value['low_s']:.4f} to {value['high_s']:.4f}, "
            f"{value['repeats']} runs{first})"
        )
    if isinstance(value, dict):
        return ", ".join(f"{k} {_text(v)}" for k, v in value.items())
    if isinstance(value, list) and len(value) > LONG:
        return f"{len(value)} values"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    checkout.make_ready()
    sys.argv = command.joined(sys.argv, "--backbone")
    command.execute(app)
