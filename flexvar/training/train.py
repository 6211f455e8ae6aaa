"""From a recipe to a finished run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING

from flexvar.errors import FlexvarError
from flexvar.ops.memory import keep_freed_memory
from flexvar.ops.precision import parse_device
from flexvar.training.environment import own_numbers, processes
from flexvar.training.recipe import ModelRecipe, TokenizerRecipe, TrainRecipe
from flexvar.training.words import count, some

if TYPE_CHECKING:
    from accelerate import Accelerator

    from flexvar.training.loop import Trial
    from flexvar.training.stage import Stage


def train(
    recipe: TrainRecipe,
    *,
    resume: bool = False,
    dry_run: bool = False,
    device: str = "auto",
    say: Callable[[str], None] = print,
    advance: Callable[[int, int, str], None] = lambda step, steps, text: None,
) -> dict[str, float]:
    """Run a recipe to its end; the figures of the last validation (none for a dry run).

    resume: go on after the latest checkpoint in ``recipe.out``, if there is one. dry_run: build
    everything, run two steps, say what it would take, write nothing. device: "auto", "cpu",
    "cuda". say: takes lines for a person. advance: told after every step how many are done, of
    how many, and loss, pace and time left in words. Under ``accelerate launch`` every process
    calls this.
    Raises `FlexvarError` for a recipe that cannot be, `flexvar.training.guard.Interrupted` when
    Ctrl-C or SIGTERM stopped it, after saving.
    """
    accelerator = _accelerator(recipe, device, say)
    if accelerator.device.type == "cpu":
        keep_freed_memory()
    # These need accelerate, whose absence has been reported by now.
    from flexvar.training.loop import Loop
    from flexvar.training.model_stage import ModelStage
    from flexvar.training.run import RunDirectory
    from flexvar.training.tokenizer_stage import TokenizerStage

    def speak(line: str) -> None:
        if accelerator.is_main_process:
            say(line)

    held, there = ExitStack(), False
    try:
        out = recipe.out
        if out is None and not dry_run:
            raise FlexvarError("out: missing; give the directory of the run, --out DIR.")
        run = RunDirectory(out or ".", write=accelerator.is_main_process and not dry_run)
        if not dry_run:
            run.check(resume=resume)
            # A new directory is made, and held, only once it is known that there will be a run.
            if there := run.path.exists():
                held.enter_context(run.held())
        images_per_step = recipe.batch_size * recipe.accumulate * accelerator.num_processes
        stage: Stage
        if isinstance(recipe, TokenizerRecipe):
            stage = TokenizerStage(recipe, images_per_step)
        elif isinstance(recipe, ModelRecipe):
            stage = ModelStage(recipe, images_per_step)
        else:
            raise FlexvarError(f"{type(recipe).__name__} is no recipe of a stage.")
        loop = Loop(stage, accelerator, run, speak, advance=advance)
        for line in _describe(stage, accelerator, images_per_step):
            speak(line)
        if dry_run:
            for line in _forecast(loop.trial(), recipe, images_per_step):
                speak(line)
            return {}
        if not there:
            held.enter_context(run.held())
        loop.start(resume=resume)
        if loop.step >= recipe.steps:
            speak(
                f"{run.path} is finished: {count(loop.step, 'step')} done. To train on, give a "
                "larger steps=N."
            )
            return {}
        figures = loop.finish()
        for line in table(figures):
            speak(line)
        speak(f"finished: {run.path}")
        speak(f"next: {stage.next_command(run.path)}")
        return figures
    finally:
        held.close()
        accelerator.end_training()


def _accelerator(recipe: TrainRecipe, device: str, say: Callable[[str], None]) -> Accelerator:
    try:
        from accelerate import Accelerator
        from accelerate.utils import DistributedDataParallelKwargs
    except ImportError as error:
        raise FlexvarError(
            f"Training needs the package accelerate, which cannot be imported ({error}). "
            "pip install 'flexvar[train]'."
        ) from None
    wanted = parse_device(device)
    # A residual tokenizer with few scales leaves some of its convolutions out.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    world = processes()
    with own_numbers(recipe.precision) as lines:
        accelerator = Accelerator(
            cpu=wanted.type == "cpu",
            mixed_precision="bf16" if recipe.precision == "bf16" else "no",
            kwargs_handlers=[unused] if isinstance(recipe, TokenizerRecipe) else None,
        )
    if accelerator.is_main_process:
        for line in lines:
            say(line)
    if accelerator.num_processes != world:
        # accelerate goes on alone in some set-ups, and every process would train by itself.
        raise FlexvarError(
            f"{world} processes were launched, but accelerate runs "
            f"{accelerator.num_processes}; on CPUs launch with `torchrun` or "
            "`accelerate launch --cpu`."
        )
    plugin = accelerator.state.fsdp_plugin if accelerator.distributed_type == "FSDP" else None
    if plugin is not None and plugin.fsdp_version != 2:
        raise FlexvarError(
            "FSDP 1 flattens parameters, which the optimiser's groups need apart; set "
            "fsdp_version to 2 (`accelerate launch --fsdp_version 2`)."
        )
    return accelerator


def _describe(stage: Stage, accelerator: Accelerator, images_per_step: int) -> list[str]:
    data, processes = stage.train_data, accelerator.num_processes
    return [
        f"data {stage.recipe.data.source}: {count(len(data), 'picture')} to train on, "
        f"{len(stage.validation_data)} to validate, {count(data.num_classes, 'class', 'classes')} "
        f"({some(data.class_names)})",
        *stage.describe(),
        f"{count(stage.recipe.steps, 'step')} of {count(images_per_step, 'image')} on "
        f"{accelerator.device.type}, {count(processes, 'process', 'processes')}, "
        f"{stage.recipe.precision}",
    ]


def _forecast(trial: Trial, recipe: TrainRecipe, images_per_step: int) -> list[str]:
    from flexvar.training.report import clock

    return [
        f"two steps ran: losses {', '.join(f'{loss:.4g}' for loss in trial.losses)}",
        f"memory {trial.memory / 2**20:.0f} MB at its peak",
        f"time {trial.seconds:.3g} s a step ({images_per_step / trial.seconds:.3g} images/s), "
        f"about {clock(trial.seconds * recipe.steps)} for {recipe.steps} steps without validation",
        "dry run: nothing was written",
    ]


def table(figures: Mapping[str, float]) -> list[str]:
    """Figures named ``what/grid`` as a table with a line per grid."""
    grids = list(dict.fromkeys(name.split("/")[1] for name in figures if "/" in name))
    kinds = list(dict.fromkeys(name.split("/")[0] for name in figures if "/" in name))
    if not grids:
        return []
    lines = ["grid".ljust(8) + "".join(kind.rjust(12) for kind in kinds)]
    for grid in grids:
        cells = (figures.get(f"{kind}/{grid}") for kind in kinds)
        row = ("-".rjust(12) if cell is None else f"{cell:12.4g}" for cell in cells)
        lines.append(grid.ljust(8) + "".join(row))
    return lines
