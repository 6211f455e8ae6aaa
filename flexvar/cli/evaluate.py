"""``flexvar evaluate``: samples of every class, and figures of how good they are."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from flexvar.cli import options
from flexvar.cli.output import complain, say, terminated_as_interrupted


def evaluate(
    model: options.Model,
    out: Annotated[
        Path, typer.Option(help="Directory for images, cache and results.json.", show_default=False)
    ],
    num: Annotated[int, typer.Option(help="Images per class.")] = 10,
    metrics: Annotated[
        str,
        typer.Option(
            help="Of offline, tokenizer, features, nearest, fid, is, precision-recall, with "
            "commas; none only samples."
        ),
    ] = "offline,tokenizer",
    nearest: Annotated[
        bool,
        typer.Option(
            "--nearest", help="Also find the nearest training picture of each sample: nearest.png."
        ),
    ] = False,
    reference: Annotated[
        str | None,
        typer.Option(
            help="Real pictures: photos, digits, a folder, shards, or an .npz for fid.",
            show_default="that of training",
        ),
    ] = None,
    trunk: Annotated[
        Path | None,
        typer.Option(
            help="File of Inception's weights, for fid, is and precision-recall.",
            show_default=False,
        ),
    ] = None,
    npz: Annotated[
        bool, typer.Option("--npz", help="Also write samples.npz (arr_0), for other evaluators.")
    ] = False,
    preset: options.Preset = "default",
    seed: Annotated[int, typer.Option(help="Same seed, same images.")] = 0,
    size: Annotated[
        str | None,
        typer.Option(help="Height x width in pixels.", show_default="that of training"),
    ] = None,
    steps: options.Steps = None,
    sampler: options.Sampler = None,
    processes: Annotated[
        int, typer.Option(help="Processes that sample; on several GPUs one or more for each.")
    ] = 1,
    batch: Annotated[int, typer.Option(help="Images made at a time.")] = 16,
    device: options.Device = "auto",
    dtype: options.Dtype = "fp32",
    compile_: options.Compile = False,
    **sampling: Any,
) -> None:
    """Sample every class equally often, and measure samples and tokenizer.

    Writes images/*.png, each with its settings, and results.json with all figures. Run again, it
    makes only what is missing; the set is the same for any number of processes.

    offline and tokenizer train a small classifier on the reference and need no download; features
    and nearest see pictures by a network whose weights come with flexvar\\[metrics]. fid, is and
    precision-recall need flexvar\\[metrics] too, and a file of Inception's weights (--trunk).

    Example: flexvar evaluate --model photos --num 10 --seed 0 --processes 2 --out evaluated
    """
    from flexvar.errors import FlexvarError

    names = [name.strip() for name in metrics.split(",") if name.strip()]
    names = [] if names == ["none"] else list(dict.fromkeys(names))
    names += ["nearest"] if nearest and "nearest" not in names else []
    asked_size = None if size is None else options.parse_size(size)
    asked_steps = None if steps is None else options.parse_steps(steps)
    if num < 1:
        raise FlexvarError(f"--num: got {num}; expected at least 1 image per class.")
    options.check_out(out)
    given = {"sampler": sampler, **sampling}

    from flexvar.evaluation.evaluate import RESULTS, Request
    from flexvar.evaluation.evaluate import evaluate as run
    from flexvar.evaluation.processes import launched

    request = Request(
        model=model,
        out=out,
        num=num,
        seed=seed,
        preset=preset,
        metrics=tuple(names),
        reference=reference,
        trunk=trunk,
        npz=npz,
        processes=processes,
        batch=batch,
        device=device,
        dtype=dtype,
        compile=compile_,
        size=asked_size,
        steps=tuple(asked_steps) if isinstance(asked_steps, list) else asked_steps,
        sampling=tuple((name, value) for name, value in given.items() if value is not None),
    )
    try:
        with launched() as world, terminated_as_interrupted():
            tell = say if world.rank == 0 else (lambda line: None)
            with _bar() if world.rank == 0 else nullcontext(quiet) as advance:
                result = run(request, advance=advance, say=tell, world=world)
            if world.rank:
                return
    except KeyboardInterrupt:
        complain("Stopped; the images made so far are kept. The same command goes on.")
        raise typer.Exit(130) from None
    except OSError as error:
        raise FlexvarError(
            f"Cannot write to {out}: {error.strerror or error}. Free some room or choose another "
            "--out; the same command goes on."
        ) from None
    _print(result)
    say(str(out / RESULTS))


def quiet(done: int, total: int) -> None:
    """Show nothing."""


def _print(result: dict[str, Any]) -> None:
    """A line per figure, the settings of each left to the file."""
    samples = result["samples"]
    if samples is not None and samples["identical"]:
        say(f"{samples['identical']} samples repeat an earlier one, pixel by pixel")
    for metric, figures in result["figures"].items():
        say(f"{metric} (reference {figures['reference']})" if "reference" in figures
            else metric)  # fmt: skip
        for name, value in figures.items():
            if isinstance(value, float):
                say(f"  {name:<24}{value:>10.4g}")
        if "note" in figures:
            say(f"  {figures['note']}")


def _bar() -> Any:
    """A bar over the images on a terminal; gives a function that is told how many there are."""
    import sys

    if sys.stderr is None or not sys.stderr.isatty():
        return nullcontext(quiet)
    return _terminal_bar()


def _terminal_bar() -> Any:
    from collections.abc import Callable, Iterator
    from contextlib import contextmanager

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    @contextmanager
    def bar() -> Iterator[Callable[[int, int], None]]:
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("images", total=None)
            yield lambda done, total: progress.update(task, completed=done, total=total)

    return bar()
