"""``flexvar train``: both stages, from recipes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

app = typer.Typer(
    no_args_is_help=True,
    help="Train a tokenizer (stage 1), then a prediction model over it (stage 2).",
)

Recipe = Annotated[
    str, typer.Argument(help="A YAML file, or a name: small, photos, digits, imagenet-...")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Options of the recipe to change."),
]
Out = Annotated[Path | None, typer.Option(help="Directory of the run (or out=DIR).")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on after the latest checkpoint.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Build all, run two steps, say what it takes.")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.")]


@app.command()
def tokenizer(
    recipe: Recipe,
    overrides: Overrides = None,
    out: Out = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    device: Device = "auto",
) -> None:
    """Train a tokenizer.

    Example: flexvar train tokenizer small data=pictures/ out=runs/tokenizer steps=1500
    """
    _train("tokenizer", recipe, overrides or [], out, resume, dry_run, device)


@app.command()
def model(
    recipe: Recipe,
    overrides: Overrides = None,
    out: Out = None,
    resume: Resume = False,
    dry_run: DryRun = False,
    device: Device = "auto",
) -> None:
    """Train a prediction model over a trained tokenizer.

    Example: flexvar train model small data=pictures/ tokenizer=runs/tokenizer out=runs/model
    """
    _train("model", recipe, overrides or [], out, resume, dry_run, device)


def _train(
    stage: Literal["tokenizer", "model"],
    source: str,
    overrides: list[str],
    out: Path | None,
    resume: bool,
    dry_run: bool,
    device: str,
) -> None:
    from flexvar.training.guard import Interrupted
    from flexvar.training.recipe import load_recipe
    from flexvar.training.train import train

    given: dict[str, Any] = {} if out is None else {"out": str(out)}
    recipe = load_recipe(source, stage, overrides, **given)
    try:
        train(recipe, resume=resume, dry_run=dry_run, device=device, say=_say)
    except Interrupted as stop:
        words = ["flexvar train", stage, source, *overrides]
        words += ["--out", str(recipe.out)] if out is not None else []
        _say(f"Stopped after step {stop.step}; all is saved. Go on with:")
        _say("  " + " ".join([*words, "--resume"]))
        raise typer.Exit(130) from None


def _say(line: str) -> None:
    # Flushed, so that a log file can be followed.
    typer.echo(line)
    import sys

    sys.stdout.flush()
