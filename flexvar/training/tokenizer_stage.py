"""Stage 1: a tokenizer, by FlexVAR's rule of random grids or VAR's fixed list."""

from __future__ import annotations

import inspect
import random
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn

from flexvar.build import build
from flexvar.checkpoint import CheckpointConfig, Trained, load_weights
from flexvar.checkpoint import load as load_checkpoint
from flexvar.components import TokenizerOutput, TrainableTokenizer
from flexvar.config import ModelConfig
from flexvar.data import Batch, ordered_batches
from flexvar.errors import FlexvarError
from flexvar.layout import Grid
from flexvar.metrics.picture import psnr
from flexvar.pipeline import Pipeline
from flexvar.training.adversarial import PatchDiscriminator, discriminator_loss, generator_loss
from flexvar.training.codebook import CodebookCare, gathered
from flexvar.training.figures import reconstruction_table, tokenizer_figures
from flexvar.training.losses import WeightedLosses, resized, skipped_grids
from flexvar.training.optimiser import Ema, freeze, peak_rate
from flexvar.training.recipe import TokenizerRecipe
from flexvar.training.sharding import sharding_asked
from flexvar.training.stage import (
    Metrics,
    Player,
    Stage,
    Step,
    derived_seed,
    grid_of,
)

SHOWN_PICTURES = 8


class TokenizerStage(Stage):
    """Trains a `TrainableTokenizer` to give pictures back through its codes."""

    name = "tokenizer"
    better = "psnr"
    higher_is_better = True

    def __init__(self, recipe: TokenizerRecipe, images_per_step: int) -> None:
        self.recipe: TokenizerRecipe = recipe
        self.open_data()
        schedule = recipe.training_schedule
        options: dict[str, Any] = {} if schedule is None else {"schedule": schedule}
        self.config = ModelConfig(tokenizer=recipe.tokenizer, **options)
        torch.manual_seed(derived_seed(recipe.seed, "weights"))
        parts = build(self.config)
        tokenizer = _trainable(parts.tokenizer, recipe.tokenizer.name)
        if recipe.start_from is not None:
            _, start = load_checkpoint(recipe.start_from)
            weights = cast(nn.Module, start.tokenizer).state_dict()
            load_weights(tokenizer, weights, f"start_from ({recipe.start_from})")
        freeze(tokenizer, recipe.freeze)
        codes: nn.Parameter | None = tokenizer.codes
        self.learns_codes = codes is not None and bool(codes.requires_grad)
        # Tokenizers made for flexvar 0.1 spell it so.
        names = inspect.signature(tokenizer.forward).parameters
        self._quantize = "quantise" if "quantise" in names else "quantize"
        self.space, self.schedule = tokenizer.space, parts.schedule
        size = self.train_data.size
        if self.train_data.buckets is not None:
            raise FlexvarError(
                "data.buckets: a tokenizer learns from crops of one size; leave the option out."
            )
        for side in size:
            if side % self.space.stride:
                raise FlexvarError(
                    f"data.size: {size[0]}x{size[1]} px is no whole number of cells of the "
                    f"tokenizer's stride {self.space.stride}."
                )
        self.last = grid_of(size, self.space.stride)
        self.losses = WeightedLosses(recipe.losses)
        self.notes = self.losses.check(size, self.space.stride)
        config = recipe.optimiser
        peak = peak_rate(config, images_per_step)
        self.players = {"main": Player(tokenizer, config, peak)}
        self.count = sum(p.numel() for p in tokenizer.parameters())
        self.care = CodebookCare(recipe.codebook, self.space)
        self.smallest_judged = 0
        if recipe.adversarial is not None:
            judge = PatchDiscriminator(recipe.adversarial)
            self.smallest_judged = judge.smallest
            self.notes += skipped_grids("adversarial", judge.smallest, size, self.space.stride)
            judge_peak = recipe.adversarial.learning_rate or peak
            self.players["judge"] = Player(judge, config, judge_peak)
        self._vectors: tuple[Tensor, ...] = ()
        self._maps: list[Tensor] = []
        self._last: list[Tensor] = []

    def grids(self, step: int) -> tuple[Grid, ...]:
        """The grids of a step, the latent's own last; the same on all processes."""
        rng = random.Random(derived_seed(self.recipe.seed, "grids", step))
        if self.recipe.training_schedule is not None:
            return self.schedule.grids(self.last, rng=rng).grids
        longer = max(self.last)
        count = min(self.recipe.random_grids - 1, longer - 1)
        sides = sorted(rng.sample(range(1, longer), count))
        shaped = (
            Grid(max(1, self.last.h * s // longer), max(1, self.last.w * s // longer))
            for s in sides
        )
        return (*dict.fromkeys(shaped), self.last)

    def place(self, accelerator: Accelerator) -> None:
        """Losses and the use of codes go to the device.

        Raises `FlexvarError` for a sharded tokenizer.
        """
        if sharding_asked():
            raise FlexvarError(
                "FSDP was asked for, but the codebook has to be whole in every process, and a "
                "tokenizer is small: launch stage 1 without FSDP."
            )
        self.losses.to(accelerator.device)
        self.care.use_GV = self.care.use_GV.to(accelerator.device)
        self.care.lately_GV = self.care.lately_GV.to(accelerator.device)

    @property
    def first_choice(self) -> int:
        """The step from which codes are chosen."""
        return round(self.recipe.codebook.start * self.recipe.steps)

    @torch.no_grad()
    def before(self, step: int, ema: Ema | None, accelerator: Accelerator) -> None:
        """Start the codebook, when it is time to, at the encoder's vectors of some images.

        Twice, because what a residual tokenizer's later scales see depends on its codes.
        """
        config = self.recipe.codebook
        if step != self.first_choice or config.initialise == "none" or not self.learns_codes:
            return
        if self.recipe.start_from is not None and config.start == 0:
            return
        tokenizer = self.players["main"].bare(accelerator)
        world = accelerator.num_processes
        count = max(1, config.initial_images // (self.recipe.batch_size * world))
        for turn in range(2 if self.recipe.training_schedule is not None else 1):
            stream = self.stream(0, accelerator.process_index, world)
            parts = []
            for number in range(count):
                images = next(stream).images_B3HW.to(accelerator.device)
                with accelerator.autocast():
                    output = tokenizer(images, self.grids(number))
                parts.append(gathered(output.vectors, accelerator))
            seed = derived_seed(self.recipe.seed, "codebook", turn)
            self.care.initialise(tokenizer.codes, torch.cat(parts), seed)
        if ema is not None:
            ema.weights[self._codes_name(tokenizer)].copy_(tokenizer.codes)

    def backward(self, batch: Batch, step: Step) -> Metrics:
        """Both players' passes; the judge sees pictures from its start step on."""
        recipe, accelerator = self.recipe, step.accelerator
        images, main = batch.images_B3HW, self.players["main"]
        with accelerator.autocast():
            choose = {self._quantize: step.number >= self.first_choice}
            output: TokenizerOutput = main.module(images, self.grids(step.number), **choose)
            made = output.reconstructions
            targets = [resized(images, picture.shape[-2:]) for picture in made]
            loss, metrics = self.losses(made, targets)
        for name, (weight, value) in self._auxiliary(output).items():
            loss = loss + weight * value
            metrics[name] = value.detach()
        metrics["psnr"] = psnr(made[-1].detach(), images).mean()
        judged = [(m, t) for m, t in zip(made, targets, strict=True) if self._is_judged(m)]
        adversarial, judge = recipe.adversarial, self.players.get("judge")
        if judge is not None:
            judge.active = adversarial is not None and step.number >= adversarial.start
        if adversarial is not None and judge is not None and judge.active:
            bare = judge.bare(accelerator)
            bare.requires_grad_(False)
            with accelerator.autocast():
                fooled = torch.stack(
                    [generator_loss(v) for v in bare([m for m, _ in judged])]
                ).sum()
            bare.requires_grad_(True)
            loss = loss + adversarial.weight * fooled
            metrics["generator"] = fooled.detach()
        accelerator.backward(loss / step.accumulate)
        if judge is not None and judge.active:
            with accelerator.autocast():
                verdicts = judge.module([torch.cat([t, m.detach()]) for m, t in judged])
                halves = [verdict.float().chunk(2) for verdict in verdicts]
                judgement = torch.stack([discriminator_loss(*half) for half in halves]).sum()
            accelerator.backward(judgement / step.accumulate)
            metrics["judge"] = judgement.detach()
        if step.micro == 0:
            self._maps, self._last = [], []
        self._maps += output.maps
        self._last.append(output.maps[-1])
        self._vectors = output.vectors
        return {"loss": loss.detach(), **metrics}

    def probe(self, batch: Batch, step: Step) -> None:
        """The tokenizer's forward pass."""
        with step.accelerator.autocast():
            self.players["main"].bare(step.accelerator)(batch.images_B3HW, self.grids(step.number))

    @torch.no_grad()
    def after(self, step: int, ema: Ema | None, accelerator: Accelerator) -> Metrics:
        """Count the codes of the step; now and then revive unused ones."""
        if step < self.first_choice:
            return {}
        self.care.observe(self._maps, accelerator, self._last)
        config, revived = self.recipe.codebook, 0
        due = config.revive_every and step > self.first_choice and step % config.revive_every == 0
        if due and self.learns_codes and step < config.revive_until * self.recipe.steps:
            main = self.players["main"]
            tokenizer = main.bare(accelerator)
            revived = self.care.revive(
                tokenizer.codes,
                gathered(self._vectors, accelerator),
                derived_seed(self.recipe.seed, "revive", step),
                main.raw_optimiser,
                None if ema is None else ema.weights[self._codes_name(tokenizer)],
            )
        usage, spread = self.care.usage()
        figures = {"usage": usage, "perplexity": spread}
        if due:
            figures["revived"] = float(revived)
        return {name: torch.tensor(value) for name, value in figures.items()}

    def state(self) -> dict[str, Any]:
        """The use of codes."""
        return {"use": self.care.use_GV.cpu(), "lately": self.care.lately_GV.cpu()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take over the use of codes."""
        self.care.use_GV.copy_(state["use"])
        self.care.lately_GV.copy_(state.get("lately", state["use"]))

    def pipeline(self, weights: dict[str, Tensor]) -> Pipeline:
        """A tokenizer alone."""
        parts = build(self.config)
        cast(nn.Module, parts.tokenizer).load_state_dict(weights)
        cast(nn.Module, parts.tokenizer).eval()
        trained = Trained(
            size=self.train_data.size,
            data=self.recipe.data.source,
            val_fraction=self.recipe.data.val_fraction,
        )
        config = CheckpointConfig(model=self.config, trained=trained)
        return Pipeline(parts, config)

    def validate(self, pipe: Pipeline) -> dict[str, float]:
        """PSNR, SSIM, use of codes and perplexity of every grid, and of the last one."""
        stream = ordered_batches(
            self.validation_data,
            batch_size=self.recipe.batch_size,
            limit=self.recipe.validation_images,
        )
        return tokenizer_figures(pipe, (batch.images_B3HW for batch in stream))

    def picture(self, pipe: Pipeline) -> Image.Image:
        """A row per validation picture: itself, then its reconstruction at every grid."""
        count = self.recipe.validation_images
        stream = ordered_batches(self.validation_data, batch_size=count, limit=count)
        images = next(iter(stream)).images_B3HW
        # Spread over the classes, which stand in order.
        shown = torch.linspace(0, len(images) - 1, min(SHOWN_PICTURES, len(images))).long()
        return reconstruction_table(pipe, images[shown])

    def describe(self) -> list[str]:
        """Parts, parameters, tokens, and which losses go without."""
        space = self.space
        return [
            f"tokenizer {self.recipe.tokenizer.name}: {self.count / 1e6:.2f} M parameters, "
            f"stride {space.stride}, {space.describe()}",
            f"{self.train_data.size[0]}x{self.train_data.size[1]} px, latent {self.last}: "
            f"{self.last.cells} tokens at the last scale",
            *self.notes,
        ]

    def next_command(self, directory: Path) -> str:
        """Stage 2 over this tokenizer."""
        words = ["flexvar", "train", "model", "small", f"data={self.recipe.data.source}"]
        words += [f"tokenizer={directory}", f"out={directory}-model"]
        return shlex.join(words)

    def _auxiliary(self, output: TokenizerOutput) -> dict[str, tuple[float, Tensor]]:
        """Weight and value of the tokenizer's own losses, by name."""
        recipe, found = self.recipe, output.auxiliary
        weights = {"codebook": recipe.codebook_weight, "commitment": recipe.commitment_weight}
        weights |= recipe.auxiliary
        unknown = sorted(recipe.auxiliary.keys() - found.keys())
        if unknown:
            raise FlexvarError(
                f"auxiliary: tokenizer {recipe.tokenizer.name!r} has no loss {unknown[0]!r}; it "
                f"has {', '.join(found) or 'none'}."
            )
        return {name: (weights.get(name, 1.0), value) for name, value in found.items()}

    @staticmethod
    def _codes_name(tokenizer: Any) -> str:
        return next(n for n, p in tokenizer.named_parameters() if p is tokenizer.codes)

    def _is_judged(self, picture: Tensor) -> bool:
        return self.smallest_judged > 0 and min(picture.shape[-2:]) >= self.smallest_judged


def _trainable(tokenizer: Any, name: str) -> Any:
    """A module and `TrainableTokenizer`, or a `FlexvarError`."""
    if isinstance(tokenizer, nn.Module) and isinstance(cast(Any, tokenizer), TrainableTokenizer):
        return tokenizer
    raise FlexvarError(
        f"tokenizer {name!r} cannot be trained: it has no forward and codes as "
        "flexvar.components.TrainableTokenizer asks for."
    )
