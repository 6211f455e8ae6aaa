"""What the loop needs of a stage, and what it hands to it."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from flexvar.data import Batch, Dataset, batches, open_data, ordered_batches
from flexvar.errors import FlexvarError
from flexvar.layout import Grid
from flexvar.pipeline import Pipeline
from flexvar.training.optimiser import Ema, adamw, keep_fused, load_tensors
from flexvar.training.recipe import OptimiserConfig, TrainRecipe
from flexvar.training.sharding import shard, sharding_asked

Metrics = dict[str, Tensor]
FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


@dataclass
class Player:
    """A module that is trained, with its optimiser.

    module: as accelerate wrapped it, once prepared. config: of the optimiser. peak: the peak
    learning rate. active: whether it took part in this step. fused: whether the optimiser's step is
    a few launches, as on a GPU.
    """

    module: nn.Module
    config: OptimiserConfig
    peak: float
    active: bool = True
    fused: bool = False

    def prepare(self, accelerator: Accelerator) -> None:
        """Wrap for the devices and processes there are, and make the optimiser."""
        self.fused = accelerator.device.type == "cuda"
        if sharding_asked() and accelerator.num_processes > 1:
            shard(self.module, accelerator)
            self.optimiser = adamw(self.module, self.config, fused=self.fused)
            return
        optimiser = adamw(self.module, self.config, fused=self.fused)
        self.module, self.optimiser = accelerator.prepare(self.module, optimiser)

    @property
    def raw_optimiser(self) -> torch.optim.Optimizer:
        """torch's own optimiser."""
        return getattr(self.optimiser, "optimizer", self.optimiser)

    def bare(self, accelerator: Accelerator) -> Any:
        """The module without what accelerate put around it."""
        return accelerator.unwrap_model(self.module, keep_torch_compile=False)

    def state(self, accelerator: Accelerator) -> dict[str, Any]:
        """Full weights and optimiser state on the CPU; on the main process if there are many."""
        bare = self.bare(accelerator)
        return {
            "weights": get_model_state_dict(bare, options=FULL),
            "optimiser": get_optimizer_state_dict(bare, self.raw_optimiser, options=FULL),
        }

    def load(self, state: Mapping[str, Any], accelerator: Accelerator) -> None:
        """Take over a saved state."""
        bare = self.bare(accelerator)
        load_tensors(bare.state_dict(), state["weights"])
        options = StateDictOptions(full_state_dict=True)
        set_optimizer_state_dict(bare, self.raw_optimiser, state["optimiser"], options=options)
        keep_fused(self.raw_optimiser, fused=self.fused)


@dataclass
class Step:
    """One micro-batch: of which step, how many share it, on which process."""

    number: int
    micro: int
    accumulate: int
    accelerator: Accelerator


class Stage(ABC):
    """A trainable thing: data, players (``main`` comes out), losses, validation, pictures."""

    name: ClassVar[str]
    better: ClassVar[str]  # the validation figure that decides which checkpoint is the best
    higher_is_better: ClassVar[bool] = False
    recipe: TrainRecipe
    players: dict[str, Player]
    train_data: Dataset

    def open_data(self) -> None:
        """Open both splits of the recipe's data.

        Raises `FlexvarError` if no validation picture can be read: better now than when the
        first validation is due.
        """
        self.train_data = open_data(self.recipe.data, "train")
        self.validation_data = open_data(self.recipe.data, "val")
        limit = self.recipe.validation_images
        if next(ordered_batches(self.validation_data, batch_size=1, limit=limit), None) is None:
            reasons = "".join(
                f"\n  {r}" for r in list(self.validation_data.unreadable.values())[:5]
            )
            raise FlexvarError(
                f"No validation picture of {self.recipe.data.source!r} can be read; remove such "
                f"files or add others. Check with: flexvar data {self.recipe.data.source}{reasons}"
            )

    def stream(self, start: int, rank: int, world: int) -> Iterator[Batch]:
        """This rank's batches without end, from the ``start``-th on."""
        return batches(
            self.train_data,
            batch_size=self.recipe.batch_size,
            seed=self.recipe.seed,
            start=start,
            rank=rank,
            world=world,
            workers=self.recipe.workers,
        )

    def place(self, accelerator: Accelerator) -> None:
        """Bring what is used but not trained to the device."""
        del accelerator

    def before(self, step: int, ema: Ema | None, accelerator: Accelerator) -> None:
        """What precedes a step."""
        del step, ema, accelerator

    @abstractmethod
    def backward(self, batch: Batch, step: Step) -> Metrics:
        """Forward and backward passes of one micro-batch; figures for the log."""

    @abstractmethod
    def probe(self, batch: Batch, step: Step) -> None:
        """The forward pass again without gradients, to find what went wrong in it."""

    def after(self, step: int, ema: Ema | None, accelerator: Accelerator) -> Metrics:
        """What follows an optimiser step; more figures."""
        del step, ema, accelerator
        return {}

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to hold beside weights and optimisers."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave."""
        del state

    @abstractmethod
    def pipeline(self, weights: dict[str, Tensor]) -> Pipeline:
        """A pipeline with these weights in place of the trained module's own, on the CPU."""

    @abstractmethod
    def validate(self, pipe: Pipeline) -> dict[str, float]:
        """Figures over the validation pictures; `better` is one of them."""

    @abstractmethod
    def picture(self, pipe: Pipeline) -> Image.Image:
        """What the weights can do, in one picture."""

    def save_more(self, directory: Path, weights: dict[str, Tensor]) -> None:
        """What a run keeps beside its pipeline and its state."""
        del directory, weights

    def conclude(self, pipe: Pipeline) -> list[str]:
        """Lines about the finished pipeline, beside its figures."""
        del pipe
        return []

    @abstractmethod
    def describe(self) -> list[str]:
        """Lines about the run: parts, parameters, tokens per image, which losses go without."""

    @abstractmethod
    def next_command(self, directory: Path) -> str:
        """The command that a person would run next with what is in ``directory``."""


def full_tensors(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same as full tensors on the CPU; every process has to ask."""
    from torch.distributed.tensor import DTensor

    return {
        name: (t.full_tensor() if isinstance(t, DTensor) else t).detach().cpu().clone()
        for name, t in weights.items()
    }


def derived_seed(*parts: int | str) -> int:
    """A seed in [0, 2^63) made of the parts; other parts give an unrelated one."""
    words = [int.from_bytes(hashlib.sha256(str(p).encode()).digest()[:8], "big") for p in parts]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0]) >> 1


def grid_of(size: tuple[int, int], stride: int) -> Grid:
    """The latent grid of a picture of (height, width) pixels."""
    return Grid(size[0] // stride, size[1] // stride)
