"""The training loop, the only one: both stages, any number of processes, resumable."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor

from flexvar.data import Batch
from flexvar.errors import CheckpointError, FlexvarError
from flexvar.pipeline import Pipeline
from flexvar.training.guard import Interrupted, StopRequest, culprit
from flexvar.training.optimiser import Ema, rate_factor
from flexvar.training.report import Advance, Reporter, peak_memory
from flexvar.training.run import RunDirectory
from flexvar.training.stage import Stage, Step, derived_seed, full_tensors
from flexvar.training.state import state_of, take_over

Say = Callable[[str], None]


class Trial(NamedTuple):
    """What a dry run measured: seconds per step, peak memory in bytes, losses of its steps."""

    seconds: float
    memory: int
    losses: list[float]


@dataclass
class Loop:
    """One run of a stage.

    say: takes the lines a person should see, on the main process. advance: told after every step.
    """

    stage: Stage
    accelerator: Accelerator
    run: RunDirectory
    say: Say
    step: int = 0
    skipped: int = 0
    ema: Ema | None = None
    best: float | None = None
    best_step: int | None = None
    stop: StopRequest = field(default_factory=StopRequest)
    advance: Advance = lambda step, steps, text: None

    def __post_init__(self) -> None:
        recipe = self.stage.recipe
        self.images_per_step = (
            recipe.batch_size * recipe.accumulate * self.accelerator.num_processes
        )
        self.stage.place(self.accelerator)
        for player in self.stage.players.values():
            player.prepare(self.accelerator)
        self.main = self.stage.players["main"]
        self.bare = self.main.bare(self.accelerator)
        if recipe.ema:
            self.ema = Ema(self.bare, recipe.ema)

    def start(self, *, resume: bool) -> None:
        """Begin afresh, or go on from the latest checkpoint if there is one.

        A checkpoint that cannot be read is set aside, with a message, and the one before it is
        taken. Raises `FlexvarError` if the directory holds a run already and ``resume`` is not
        asked for, or if that run had another recipe or other classes.
        """
        self.run.check(resume=resume)
        self.run.create()
        state, unreadable = self.run.load_latest(self.say)
        # Every process has read by now what the main one is about to rename.
        self.accelerator.wait_for_everyone()
        if state is not None:
            take_over(self, state)
            for step in unreadable:
                self.run.set_aside(step)
            self.say(f"going on after step {self.step}")
        if self.run.write:
            self.run.trim_log(self.step)
            self.run.write_recipe(self.stage.recipe)

    def finish(self) -> dict[str, float]:
        """Train to the end; the figures of the last validation.

        Raises `Interrupted` after saving if asked to stop, `FlexvarError` if too many steps in a
        row had to be skipped.
        """
        recipe = self.stage.recipe
        until = recipe.steps
        if recipe.stop_after is not None:
            until = min(until, self.step + recipe.stop_after)
        figures: dict[str, float] = {}
        reporter = Reporter(
            self.run,
            self.say,
            recipe,
            self.images_per_step,
            self.accelerator,
            step=self.step,
            advance=self.advance,
        )
        with self.stop.listening(), reporter:
            stream = self._stream()
            reporter.begin()
            while self.step < until:
                metrics = self.one_step(stream)
                self.step += 1
                reporter.step(self.step, metrics)
                done = self.step == recipe.steps
                stopping = self._stopping() or self.step == until
                with reporter.paused():
                    figures = self._occasionally(reporter, done=done, stopping=stopping) or figures
                if stopping and not done:
                    raise Interrupted(self.step)
        return figures

    def _occasionally(
        self, reporter: Reporter, *, done: bool, stopping: bool
    ) -> dict[str, float] | None:
        """Validate, draw and save where it is time to; every process has to come along."""
        recipe = self.stage.recipe

        def due(every: int) -> bool:
            return every > 0 and self.step % every == 0

        validating = done or due(recipe.validate_every)
        drawing, saving = (
            done or due(recipe.sample_every),
            done or stopping or due(recipe.save_every),
        )
        if not (validating or drawing or saving):
            return None
        figures: dict[str, float] = {}
        weights = self._weights()
        pipe = self._pipeline_of(weights)
        best = False
        if pipe is not None:
            if validating:
                figures = self.stage.validate(pipe)
                reporter.validation(self.step, figures)
                # Only a checkpoint that is kept can be the best one.
                best = saving and self._is_best(figures[self.stage.better])
            if drawing:
                picture = self.stage.picture(pipe)
                self.run.save_picture(picture, self.step)
                reporter.picture(self.step, picture)
        if saving:
            self._save(pipe, weights)
            if best and self.best is not None:
                self.run.set_best(self.step, self.best)
        if done and pipe is not None:
            for line in self.stage.conclude(pipe.to(self.accelerator.device)):
                self.say(line)
        self.accelerator.wait_for_everyone()
        return figures

    def one_step(self, stream: Iterator[Batch]) -> dict[str, Tensor]:
        """One optimiser step; the figures of its micro-batches, averaged over them.

        A step with a non-finite gradient changes nothing; too many of them in a row raise
        `FlexvarError` with the module they come from.
        """
        recipe, accelerator, players = self.stage.recipe, self.accelerator, self.stage.players
        # All that is random in a step follows from its number: nothing to save for a resume.
        torch.manual_seed(derived_seed(recipe.seed, self.step, accelerator.process_index))
        self.stage.before(self.step, self.ema, accelerator)
        factor = rate_factor(recipe.optimiser, self.step, recipe.steps)
        for player in players.values():
            player.module.train()
            for group in player.raw_optimiser.param_groups:
                group["lr"] = player.peak * factor
        metrics: dict[str, Tensor] = {}
        for micro in range(recipe.accumulate):
            batch = next(stream).to(accelerator.device)
            step = Step(self.step, micro, recipe.accumulate, accelerator)
            with ExitStack() as stack:
                if micro < recipe.accumulate - 1:
                    for player in players.values():
                        stack.enter_context(accelerator.no_sync(player.module))
                for name, value in self.stage.backward(batch, step).items():
                    share = value.float() / recipe.accumulate
                    metrics[name] = metrics[name] + share if name in metrics else share
        norms = self._clip()
        metrics["gradient_norm"] = norms["main"]
        metrics["learning_rate"] = torch.tensor(self.main.peak * factor)
        if not all(math.isfinite(float(norm)) for norm in norms.values()):
            self._skip(batch, step, metrics)
            return {}
        self.skipped = 0
        for player in players.values():
            if player.active:
                player.raw_optimiser.step()
            player.raw_optimiser.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.bare, self.step)
        return metrics | self.stage.after(self.step, self.ema, accelerator)

    def _clip(self) -> dict[str, Tensor]:
        """Gradient norms of the players that took part, after which they are clipped."""
        norms: dict[str, Tensor] = {}
        most = self.stage.recipe.optimiser.clip
        for name, player in self.stage.players.items():
            if player.active:
                norm = self.accelerator.clip_grad_norm_(
                    player.module.parameters(), math.inf if most is None else most
                )
                assert norm is not None
                norms[name] = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        return norms

    def _skip(self, batch: Batch, step: Step, metrics: dict[str, Tensor]) -> None:
        self.skipped += 1
        where = culprit(self.bare, lambda: self.stage.probe(batch, step))
        for player in self.stage.players.values():
            player.raw_optimiser.zero_grad(set_to_none=True)
        wrong = [name for name, value in metrics.items() if not bool(value.isfinite())]
        line = f"step {self.step}: {', '.join(wrong)} not finite; {where}. The step is skipped."
        self.say(line)
        if self.skipped > self.stage.recipe.patience:
            raise FlexvarError(
                f"{self.skipped} steps in a row were not finite, the last one {line[0].lower()}"
                f"{line[1:-21]} Lower optimiser.learning_rate, or take precision=fp32; the "
                f"checkpoint of step {(self.run.steps() or [0])[-1]} is whole."
            )

    def pipeline(self) -> Pipeline | None:
        """A pipeline of the averaged weights on this device, on the main process; else None."""
        return self._pipeline_of(self._weights())

    def _pipeline_of(self, weights: dict[str, Tensor]) -> Pipeline | None:
        if not self.accelerator.is_main_process:
            return None
        return self.stage.pipeline(weights).to(self.accelerator.device)

    def _weights(self) -> dict[str, Tensor]:
        """Full averaged weights on the CPU; every process has to ask."""
        weights = full_tensors(self.bare.state_dict())
        return weights | (full_tensors(self.ema.weights) if self.ema is not None else {})

    def _save(self, pipe: Pipeline | None, weights: dict[str, Tensor]) -> None:
        state = state_of(self)
        if pipe is not None:
            # The checkpoint comes last: a run that is killed in between does these steps again,
            # and one whose checkpoint says that it is finished has its pipeline.
            try:
                pipe.to("cpu").save_pretrained(self.run.path)
                self.stage.save_more(self.run.path, weights)
            except CheckpointError as error:
                raise CheckpointError(f"{error}{self.run.whole()}") from None
            self.run.save(state, keep=self.stage.recipe.keep)

    def _is_best(self, value: float) -> bool:
        higher = self.stage.higher_is_better
        if self.best is not None and (value <= self.best if higher else value >= self.best):
            return False
        self.best, self.best_step = value, self.step
        return True

    def _stopping(self) -> bool:
        """Whether any process was asked to stop."""
        if self.accelerator.num_processes == 1:
            return self.stop.asked
        flag = torch.tensor(float(self.stop.asked), device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, reduction="sum") > 0)

    def _stream(self) -> Iterator[Batch]:
        accelerator = self.accelerator
        start = self.step * self.stage.recipe.accumulate
        return self.stage.stream(start, accelerator.process_index, accelerator.num_processes)

    def trial(self, steps: int = 2) -> Trial:
        """Run a few steps and measure; nothing is written."""
        stream, losses, seconds = self._stream(), [], 0.0
        for _ in range(steps):
            started = time.perf_counter()
            metrics = self.one_step(stream)
            losses.append(float(metrics["loss"]) if metrics else math.nan)
            seconds = time.perf_counter() - started  # of the last step: the first one warms up
            self.step += 1
        return Trial(seconds, peak_memory(self.accelerator.device), losses)
