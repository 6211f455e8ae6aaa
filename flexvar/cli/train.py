"""``flexvar train``: both stages, from recipes."""

from __future__ import annotations

import os
import shlex
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from flexvar.cli.output import Bar, say

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
    show_options: Annotated[
        bool,
        typer.Option("--options", help="Print all options of the recipe, and train nothing."),
    ] = False,
) -> None:
    """Train a tokenizer (stage 1), then a prediction model over it (stage 2).

    Examples: flexvar train tokenizer small data=pictures/ out=runs/tokenizer steps=1500

    flexvar train model small data=pictures/ tokenizer=runs/tokenizer out=runs/model steps=1500

    pictures/ holds a folder per class; flexvar data pictures/ checks it.

    Ctrl-C saves; the same command with --resume goes on. --options after a recipe prints every
    option with its value and meaning.
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
    if show_options:
        from flexvar.training.recipe import recipe_options

        for line in recipe_options(recipe, name, assignments):
            say(line)
        return
    config = load_recipe(recipe, name, assignments, **given)
    device = devices[-1] if devices else device
    alone = os.environ.get("WORLD_SIZE", "1") in ("", "1")
    main = alone or os.environ.get("RANK", "0") == "0"
    words = ["flexvar", "train", name, recipe, *assignments]
    words += ["--out", str(out)] if out is not None else []
    words += ["--device", device] if device != "auto" else []
    again = f"  {shlex.join([*words, '--resume'])}"
    try:
        with Bar() if main else nullcontext() as bar:
            run(
                config,
                resume=resume,
                dry_run=dry_run,
                device=device,
                say=bar.say if bar is not None else say,
                advance=bar.step if bar is not None else _nothing,
            )
    except Interrupted as stop:
        if main:
            say(f"Stopped after step {stop.step}; all is saved. Go on with:")
            say(again)
        raise typer.Exit(130) from None
    except KeyboardInterrupt:
        if main:
            say("Stopped at once; what was saved before is whole. Go on with:")
            say(again)
        raise typer.Exit(130) from None
    except OSError as error:
        raise FlexvarError(
            f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}. "
            "What was saved before is whole; go on with --resume."
        ) from None


def _nothing(step: int, steps: int, text: str) -> None:
    """Other processes than the main one show nothing."""
