"""What a run says: lines for a person, JSON lines for programs, trackers."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Self

import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor

from flexvar.training.recipe import TrainRecipe
from flexvar.training.run import RunDirectory
from flexvar.training.trackers import Trackers

# Told after every step: how many are done, of how many, and loss, pace and time left in words.
Advance = Callable[[int, int, str], None]


class Reporter:
    """Averages figures between log lines, over processes too, and writes them."""

    def __init__(
        self,
        run: RunDirectory,
        say: Callable[[str], None],
        recipe: TrainRecipe,
        images_per_step: int,
        accelerator: Accelerator,
        step: int = 0,
        advance: Advance = lambda step, steps, text: None,
    ) -> None:
        self.advance, self.pace = advance, 0.0
        self.run, self.say, self.recipe, self.accelerator = run, say, recipe, accelerator
        self.images_per_step = images_per_step
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = {}
        self.trackers = Trackers(run, recipe, say, step) if run.write else None
        self.seconds, self.steps, self.left_from = 0.0, 0, time.perf_counter()
        self.stepped = self.left_from

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.trackers is not None:
            self.trackers.close()

    def begin(self) -> None:
        """Start the clock."""
        self.left_from = self.stepped = time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time that does not count as training."""
        self.seconds += time.perf_counter() - self.left_from
        yield
        self.left_from = self.stepped = time.perf_counter()

    def step(self, step: int, metrics: Mapping[str, Tensor]) -> None:
        """Take the figures of a step; ``step`` steps are done now."""
        self.steps += 1
        self._advance(step, metrics)
        for name, value in metrics.items():
            value = value.detach().float()
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0) + 1
        if step % self.recipe.log_every == 0 or step == self.recipe.steps:
            self._write(step)

    def _advance(self, step: int, metrics: Mapping[str, Tensor]) -> None:
        """Tell how far the run is, at a pace that follows what the last steps took."""
        now = time.perf_counter()
        took, self.stepped = now - self.stepped, now
        self.pace = took if self.pace == 0 else 0.9 * self.pace + 0.1 * took
        if not self.run.write:
            return
        loss = f"loss {float(metrics['loss']):.4g}  " if "loss" in metrics else ""
        left = clock((self.recipe.steps - step) * self.pace)
        rate = self.images_per_step / max(self.pace, 1e-9)
        self.advance(step, self.recipe.steps, f"{loss}{rate:.3g} images/s  {left} left")

    def _write(self, step: int) -> None:
        names = sorted(self.sums)
        device = self.accelerator.device
        figures = {}
        if names:
            means = torch.stack([self.sums[n].to(device) / self.counts[n] for n in names])
            means = self.accelerator.reduce(means, reduction="mean")
            figures = dict(zip(names, means.tolist(), strict=True))
        self.sums, self.counts = {}, {}
        seconds = self.seconds + time.perf_counter() - self.left_from
        rate = self.steps / max(seconds, 1e-9)
        figures |= {
            "images_per_second": rate * self.images_per_step,
            "memory_mb": peak_memory(device) / 2**20,
        }
        self.run.log({"step": step, "kind": "train", **figures})
        self._scalars("train", figures, step)
        left = (self.recipe.steps - step) / rate
        shown = [
            f"{name} {figures[name]:.4g}"
            for name in ("loss", "last_loss", "accuracy", "psnr", "usage", "gradient_norm")
            if name in figures
        ]
        self.say(
            f"step {step}/{self.recipe.steps}  {'  '.join(shown)}  "
            f"{figures['images_per_second']:.3g} images/s  {figures['memory_mb']:.0f} MB  "
            f"{clock(left)} left"
        )

    def validation(self, step: int, figures: Mapping[str, float]) -> None:
        """Take the figures of a validation."""
        self.run.log({"step": step, "kind": "validation", **figures})
        self._scalars("validation", figures, step)
        shown = [f"{name} {value:.4g}" for name, value in figures.items() if "/" not in name]
        self.say(f"step {step}  validation: {'  '.join(shown)}")

    def picture(self, step: int, image: Image.Image) -> None:
        """Take the pictures of a step."""
        if self.trackers is not None:
            self.trackers.picture(image, step)

    def _scalars(self, group: str, figures: Mapping[str, float], step: int) -> None:
        if self.trackers is not None:
            self.trackers.figures(group, figures, step)


def peak_memory(device: torch.device) -> int:
    """The most memory used so far in bytes: of the device, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def clock(seconds: float) -> str:
    """A time as 1:02:03 or 2:03."""
    minutes, second = divmod(max(0, round(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
