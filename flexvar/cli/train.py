"""``flexvar train``: both stages, from recipes."""

from __future__ import annotations

import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

# Read from the folder itself: the help has to come without importing what checks recipes.
NAMES = sorted(path.stem for path in (Path(__file__).parents[1] / "recipes").glob("*.yaml"))
OPTIONS = ("resume", "dry_run", "dry-run")


class Stage(StrEnum):
    """What is trained."""

    tokenizer = "tokenizer"
    model = "model"


def _names(stage: Stage) -> str:
    # As flexvar.training.recipe.stage_of has it: what is for no tokenizer is for a model.
    of_stage = [n for n in NAMES if n.endswith("-tokenizer") == (stage is Stage.tokenizer)]
    return ", ".join(n.removesuffix(f"-{stage}") for n in of_stage)


def train(
    stage: Annotated[
        Stage,
        typer.Argument(
            help="tokenizer: stage 1, which turns pictures into tokens. model: stage 2, which "
            "predicts them.",
            show_default=False,
        ),
    ],
    recipe: Annotated[
        str,
        typer.Argument(
            help="A YAML file, or the name of a recipe that comes with flexvar. For a tokenizer: "
            f"{_names(Stage.tokenizer)}. For a model: {_names(Stage.model)}.",
            show_default=False,
        ),
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]...",
            help="Options of the recipe to change, those inside others with dots: data=FOLDER "
            "out=DIR steps=1500 batch_size=16 optimiser.learning_rate=3e-4.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Directory of the run (or out=DIR).", show_default=False)
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after the latest checkpoint, if there is one.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Build all, run two steps, say what it takes.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda; auto is CUDA if any.")] = "auto",
) -> None:
    """Train a tokenizer (stage 1), then a prediction model over it (stage 2).

    Examples: flexvar train tokenizer small data=pictures/ out=runs/tokenizer steps=1500

    flexvar train model small data=pictures/ tokenizer=runs/tokenizer out=runs/model steps=1500

    pictures/ holds a folder per class; flexvar data pictures/ checks it.

    Ctrl-C saves; the same command with --resume goes on.
    """
    from flexvar.errors import FlexvarError
    from flexvar.training.guard import Interrupted
    from flexvar.training.recipe import load_recipe
    from flexvar.training.train import train as run

    overrides = overrides or []
    given: dict[str, Any] = {} if out is None else {"out": str(out)}
    # Where it runs is no part of a recipe, but written like one by who writes all else so.
    devices = [text.partition("=")[2] for text in overrides if text.startswith("device=")]
    for option in OPTIONS:
        if any(text.startswith(f"{option}=") for text in overrides):
            raise FlexvarError(f"{option} is an option: write --{option.replace('_', '-')}.")
    assignments = [text for text in overrides if not text.startswith("device=")]
    name: Literal["tokenizer", "model"] = stage.value
    config = load_recipe(recipe, name, assignments, **given)
    device = devices[-1] if devices else device
    try:
        run(config, resume=resume, dry_run=dry_run, device=device, say=_say)
    except Interrupted as stop:
        words = ["flexvar", "train", name, recipe, *assignments]
        words += ["--out", str(out)] if out is not None else []
        words += ["--device", device] if device != "auto" else []
        _say(f"Stopped after step {stop.step}; all is saved. Go on with:")
        _say(f"  {shlex.join([*words, '--resume'])}")
        raise typer.Exit(130) from None


def _say(line: str) -> None:
    # Flushed, so that a log file can be followed.
    typer.echo(line)
    sys.stdout.flush()
