"""Stage 2: the prediction model, on random lists of grids, over a frozen tokenizer."""

from __future__ import annotations

import random
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from PIL import Image
from torch import Tensor, nn

from flexvar import images
from flexvar.adapters import weights_digest
from flexvar.build import build, component, plan, settle
from flexvar.checkpoint import CheckpointConfig, Trained
from flexvar.checkpoint import load as load_checkpoint
from flexvar.components import (
    Facts,
    Objective,
    Pairs,
    PositionEmbedding,
    StepSchedule,
    Tokenizer,
)
from flexvar.components.conditioner import each, takes
from flexvar.config import ModelConfig
from flexvar.data import Batch, Dataset, ordered_batches
from flexvar.errors import FlexvarError
from flexvar.layout import Grid, Layout
from flexvar.metrics.token_loss import scale_figures
from flexvar.model import NextScaleModel
from flexvar.ops import fusion
from flexvar.ops.precision import send
from flexvar.pipeline import Pipeline
from flexvar.training import conditions
from flexvar.training.figures import model_figures
from flexvar.training.latents import LatentCache, weights_hash
from flexvar.training.lora import Lora, add_lora
from flexvar.training.memorisation import MOST, memorisation
from flexvar.training.optimiser import freeze, peak_rate
from flexvar.training.recipe import ModelRecipe
from flexvar.training.stage import Metrics, Player, Stage, Step, derived_seed, grid_of
from flexvar.training.starting import Base, completed, load_base, take_over
from flexvar.training.words import count

MOST_SAMPLES = 16


class ModelStage(Stage):
    """Trains a `NextScaleModel` by the recipe's objective."""

    name = "model"
    better = "validation_loss"

    def __init__(self, recipe: ModelRecipe, images_per_step: int) -> None:
        base = None if recipe.start_from is None else load_base(recipe.start_from)
        self.recipe: ModelRecipe = recipe if base is None else completed(recipe, base)
        recipe = self.recipe
        assert recipe.tokenizer is not None
        assert recipe.backbone is not None
        self.open_data()
        tokenizer_config, tokenizer_parts = load_checkpoint(recipe.tokenizer)
        self.tokenizer_config = tokenizer_config.model.tokenizer
        self.tokenizer: Tokenizer = tokenizer_parts.tokenizer
        cast(nn.Module, self.tokenizer).requires_grad_(False)
        config = ModelConfig(
            tokenizer=self.tokenizer_config,
            backbone=recipe.backbone,
            position=recipe.position,
            schedule=recipe.schedule,
            conditioner=recipe.conditioner,
            num_classes=self.train_data.num_classes,
            class_names=self.train_data.class_names,
        )
        self.config = settle(config)
        self._check_labels()
        torch.manual_seed(derived_seed(recipe.seed, "weights"))
        model = self._fresh(self.config)
        # Found here, not in what training wraps the model into.
        self.conditioner = model.conditioner
        self.notes = [] if base is None else take_over(model, base, self.train_data.class_names)
        self.count = sum(p.numel() for p in model.parameters())
        self.lora = None if base is None else self._lora(model, base)
        if recipe.freeze:
            frozen = freeze(model, recipe.freeze)
            self.notes.append(f"{count(frozen, 'tensor')} of weights stay as they are (freeze)")
        if recipe.activation_checkpointing:
            switch = getattr(model.backbone, "checkpoint_activations", None)
            if switch is None:
                raise FlexvarError(
                    f"activation_checkpointing: the backbone {recipe.backbone.name!r} has no "
                    "checkpoint_activations(); leave the option off."
                )
            switch()
        fusion.use(model, recipe.kernels)
        facts = Facts(model.facts.vocab_size, model.facts.code_dim, 0, 0, 0)
        training = ModelConfig(tokenizer=self.tokenizer_config, schedule=recipe.training_schedule)
        self.training_schedule = cast(StepSchedule, plan(training).schedule.build(facts))
        self.schedule = cast(StepSchedule, plan(self.config).schedule.build(facts))
        self.objective: Objective = component("objective", recipe.objective, model.facts)
        size, stride = self.train_data.size, self.tokenizer.space.stride
        for side in size:
            if side % stride:
                raise FlexvarError(
                    f"data.size: {size[0]}x{size[1]} px is no whole number of cells of the "
                    f"tokenizer's stride {stride}."
                )
        if self.train_data.buckets is not None:
            self._check_buckets(stride)
        self.last = grid_of(size, stride)
        self.usual = self._usual_layout(model)
        peak = peak_rate(recipe.optimiser, images_per_step)
        self.players = {"main": Player(model, recipe.optimiser, peak)}
        self.device = torch.device("cpu")
        self.cache: LatentCache | None = None

    def _check_buckets(self, stride: int) -> None:
        step = self.recipe.data.buckets
        if step is None or step % stride:
            raise FlexvarError(
                f"data.buckets: {step} px is no whole number of cells of the tokenizer's stride "
                f"{stride}."
            )
        if self.recipe.cache is not None:
            raise FlexvarError(
                "cache: latents of pictures of several sizes are not kept; leave out the cache, "
                "or data.buckets."
            )

    def _lora(self, model: NextScaleModel, base: Base) -> Lora | None:
        if self.recipe.lora is None:
            return None
        digest = weights_digest(base.model)
        added = add_lora(model, self.recipe.lora, base=digest, source=base.source)
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        self.notes.append(
            f"LoRA of rank {self.recipe.lora.rank}: {trained / 1e3:.0f} k numbers are trained, "
            f"{trained / self.count:.1%} of the model's"
        )
        return added

    def _check_labels(self) -> None:
        count = self.config.num_classes
        for label in self.recipe.sample_labels or ():
            if not 0 <= label < count:
                raise FlexvarError(
                    f"sample_labels: got {label}; the data has {count} classes, 0 to {count - 1}."
                )

    @staticmethod
    def _fresh(config: ModelConfig) -> NextScaleModel:
        model = build(config).model
        assert model is not None
        return model

    def _usual_layout(self, model: NextScaleModel) -> Layout:
        known = cast(PositionEmbedding, model.position).layouts or ()
        fitting = [layout for layout in known if layout.last == self.last]
        return fitting[0] if fitting else self.schedule.grids(self.last)

    def layout(self, step: int, batch: Batch | None = None) -> Layout:
        """The list of grids of a step, the same on all processes, up to that of its pictures."""
        rng = random.Random(derived_seed(self.recipe.seed, "layout", step))
        layout = self.training_schedule.grids(self._last(batch), rng=rng)
        # Drawn only where it is asked for, so that the lists of other runs stay as they are.
        if self.recipe.coarse and rng.random() < self.recipe.coarse and len(layout) > 2:
            return Layout(layout.grids[: rng.randint(2, len(layout) - 1)])
        return layout

    def _last(self, batch: Batch | None) -> Grid:
        """The latent grid of a batch; with buckets each has one of its own."""
        if batch is None or self.train_data.buckets is None:
            return self.last
        height, width = batch.images_B3HW.shape[-2:]
        return grid_of((height, width), self.tokenizer.space.stride)

    def place(self, accelerator: Accelerator) -> None:
        """The tokenizer goes to the device; the cache of latents is made or opened."""
        self.device = accelerator.device
        tokenizer = cast(nn.Module, self.tokenizer).to(accelerator.device)
        exact = self.recipe.encoder_precision == "fp32"
        if self.device.type == "cuda" and not (exact and getattr(tokenizer, "contiguous", False)):
            tokenizer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if not exact and self.recipe.cache is None:
            self.notes.append(self._agreement())
        if self.recipe.cache is not None and self.cache is None:
            self.cache = LatentCache.open(
                self.recipe.cache, self.train_data, self.tokenizer, self.recipe, accelerator
            )
            self._check_cache(self.cache)

    def _check_cache(self, cache: LatentCache) -> None:
        kind = takes(self.conditioner)
        if kind == "image":
            raise FlexvarError(
                f"cache: the conditioner {self.recipe.conditioner.name!r} looks at the pictures "
                "themselves, which a cache of latents does not hold; leave the cache out."
            )
        if kind == "prompt" and cache.captions is None:
            raise FlexvarError(
                "cache.directory: the latents there were kept without captions, which the "
                f"conditioner {self.recipe.conditioner.name!r} needs. Delete it or give another "
                "directory."
            )

    def stream(self, start: int, rank: int, world: int) -> Iterator[Batch]:
        """Batches of pictures, or of their cached latents."""
        if self.cache is None:
            return super().stream(start, rank, world)
        return self.cache.stream(
            batch_size=self.recipe.batch_size,
            seed=self.recipe.seed,
            start=start,
            rank=rank,
            world=world,
        )

    def _encode(self, image_B3HW: Tensor, *, exact: bool = False) -> Tensor:
        """The latent of pictures, in the recipe's precision unless it has to be exact."""
        rounded = self.recipe.encoder_precision == "bf16" and not exact
        with torch.autocast(self.device.type, torch.bfloat16, enabled=rounded):
            return self.tokenizer.features(image_B3HW)

    @torch.no_grad()
    def _agreement(self) -> str:
        """What the encoder's precision does to the tokens of some validation pictures."""
        size = min(self.recipe.batch_size, self.recipe.validation_images)
        batch = next(ordered_batches(self.validation_data, batch_size=size)).to(self.device)
        both = [
            self.tokenizer.quantize(self._encode(batch.images_B3HW, exact=exact), self.usual)
            for exact in (True, False)
        ]
        same = [(one == other).float().mean() for one, other in zip(*both, strict=True)]
        whole = torch.cat([(a == b).flatten() for a, b in zip(*both, strict=True)]).float().mean()
        return (
            f"encoder in bf16: {float(whole):.1%} of the tokens of {count(size, 'picture')} are "
            f"those of fp32, {float(same[-1]):.1%} at {self.usual.last}"
        )

    @torch.no_grad()
    def _pairs(self, batch: Batch, layout: Layout, rng: torch.Generator) -> Pairs:
        """What the objective shows the model of a batch, and asks of it."""
        pixels_or_latents = batch.images_B3HW
        latent = pixels_or_latents if self.cache is not None else self._encode(pixels_or_latents)
        return self.objective.pairs(self.tokenizer, latent, layout, rng)

    def _rng(self, step: Step) -> torch.Generator:
        """What the objective draws from: another source for every micro-batch and process."""
        place = step.number, step.micro, step.accelerator.process_index
        return torch.Generator().manual_seed(derived_seed(self.recipe.seed, "objective", *place))

    def _condition(self, batch: Batch, step: Step) -> Any:
        """What the images are of, some of them of nothing: inputs of the conditioner."""
        drawn = [
            conditions.numbers(
                derived_seed(self.recipe.seed, purpose, step.number, step.micro),
                len(batch.labels_B),
                step.accelerator.process_index,
                step.accelerator.num_processes,
            )
            for purpose in ("condition", "caption")
        ]
        dropped_B, chosen_B = drawn[0] < self.recipe.condition_dropout, drawn[1]
        conditioner = self.players["main"].bare(step.accelerator).conditioner
        values = conditions.values(conditioner, batch, self.config.class_names, chosen_B)
        inputs = conditions.drop(conditioner, conditioner.collate(values), dropped_B)
        return each(lambda tensor: send(tensor, self.device), inputs)

    def backward(self, batch: Batch, step: Step) -> Metrics:
        """The objective's loss of all tokens; loss and accuracy of every scale for the log."""
        layout, rng = self.layout(step.number, batch), self._rng(step)
        pairs = self._pairs(batch, layout, rng)
        condition = self._condition(batch, step)
        logits, losses_BL, loss = self._pass(condition, pairs, layout, step)
        metrics = scale_figures(losses_BL, logits, pairs.targets, layout)
        again = getattr(self.objective, "again", None)
        second = again(self.tokenizer, pairs, logits, layout, rng) if again is not None else None
        if second is not None:
            _, _, more = self._pass(condition, second, layout, step)
            loss, metrics["second_pass"] = loss + more, more
        return {"loss": loss} | metrics

    def _pass(
        self, condition: Any, pairs: Pairs, layout: Layout, step: Step
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, losses (B,L) and their weighted mean, of a pass forward and back."""
        with step.accelerator.autocast():
            logits = self.players["main"].module(condition, pairs.inputs_BLC, layout)
        losses_BL = self.objective.loss(logits, pairs.targets)
        weighted = losses_BL if pairs.weight_BL is None else losses_BL * pairs.weight_BL
        loss = weighted.mean()
        step.accelerator.backward(loss / step.accumulate)
        return logits.detach(), losses_BL.detach(), loss.detach()

    def probe(self, batch: Batch, step: Step) -> None:
        """The model's forward pass."""
        layout = self.layout(step.number, batch)
        pairs = self._pairs(batch, layout, self._rng(step))
        condition = self._condition(batch, step)
        with step.accelerator.autocast():
            bare = self.players["main"].bare(step.accelerator)
            bare(condition, pairs.inputs_BLC, layout)

    def pipeline(self, weights: dict[str, Tensor]) -> Pipeline:
        """Model and tokenizer."""
        parts = build(self.config)
        assert parts.model is not None
        if self.lora is not None:
            weights = self.lora.merged(weights)
        parts.model.load_state_dict(weights)
        own = cast(nn.Module, self.tokenizer).state_dict()
        cast(nn.Module, parts.tokenizer).load_state_dict({k: v.cpu() for k, v in own.items()})
        for module in parts.modules():
            module.eval()
        drawn = [self.layout(step) for step in range(256)]
        whole = [layout for layout in drawn if layout.last == self.last]
        lengths = [len(layout) for layout in whole or drawn]
        trained = Trained(
            size=self.train_data.size,
            steps=(min(lengths), max(lengths)),
            data=self.recipe.data.source,
            val_fraction=self.recipe.data.val_fraction,
        )
        presets = self.recipe.presets
        config = CheckpointConfig(model=self.config, presets=presets, trained=trained)
        return Pipeline(parts, config)

    @torch.inference_mode()
    def validate(self, pipe: Pipeline) -> dict[str, float]:
        """Loss and accuracy of every scale of the usual list, their mean, and the last one's."""
        figures = model_figures(pipe, self._held_out(pipe))
        return {"validation_loss" if k == "loss" else k: v for k, v in figures.items()}

    def _held_out(self, pipe: Pipeline) -> Iterator[tuple[Tensor, Any, Layout]]:
        """Pictures of the validation set, their conditions, and the usual list of their shape."""
        stream = ordered_batches(
            self.validation_data,
            batch_size=self.recipe.batch_size,
            limit=self.recipe.validation_images,
        )
        for batch in stream:
            values = conditions.values(pipe.model.conditioner, batch, self.config.class_names)
            last = self._last(batch)
            usual = self.usual if last == self.last else self.schedule.grids(last)
            yield batch.images_B3HW.to(pipe.device), pipe.collate(values), usual

    def picture(self, pipe: Pipeline) -> Image.Image:
        """A row per class or prompt at fixed seeds."""
        wanted = self._sampled(pipe)
        count = self.recipe.samples_per_label
        result = pipe(
            **wanted, num=count, seed=self.recipe.seed, output="tensor", progress=False,
            steps=[(grid.h, grid.w) for grid in self.usual],
        )  # fmt: skip
        columns = count if count > 1 else min(len(result.images), 8)
        made: Tensor = result.images * 2 - 1
        missing = -len(made) % columns
        made = torch.cat([made, made.new_ones(missing, *made.shape[1:])])
        return images.table(made.unflatten(0, (-1, columns)))

    def _sampled(self, pipe: Pipeline) -> dict[str, Any]:
        """The labels or prompts of the sample grid."""
        kind, recipe, count = takes(pipe.model.conditioner), self.recipe, self.config.num_classes
        if recipe.sample_prompts is not None:
            return {"prompts": list(recipe.sample_prompts)}
        if recipe.sample_labels is not None:
            return {"labels": list(recipe.sample_labels)}
        if kind == "label":
            return {"labels": list(range(count))[:MOST_SAMPLES]}
        if kind == "prompt" and self.config.class_names is not None and count > 1:
            shown = min(count, MOST_SAMPLES)
            return {"labels": [number * count // shown for number in range(shown)]}
        if kind == "prompt":
            return {"prompts": self._captions()}
        if kind == "image":
            pictures = next(ordered_batches(self.validation_data, batch_size=MOST_SAMPLES))
            return {"prompts": list(pictures.images_B3HW / 2 + 0.5)}
        return {"prompts": [None] * MOST_SAMPLES}

    def _captions(self) -> list[str]:
        """The first captions of the held-out pictures, each once."""
        found: dict[str, None] = {}
        limit = self.recipe.validation_images
        for batch in ordered_batches(self.validation_data, batch_size=MOST_SAMPLES, limit=limit):
            found |= dict.fromkeys(
                conditions.values(self.conditioner, batch, self.config.class_names)
            )
            if len(found) >= MOST_SAMPLES:
                break
        return list(found)[:MOST_SAMPLES]

    def save_more(self, directory: Path, weights: dict[str, Tensor]) -> None:
        """The adapter, of a run with LoRA."""
        if self.lora is not None:
            self.lora.save(directory / "adapter", weights, self.train_data.class_names)

    @torch.inference_mode()
    def conclude(self, pipe: Pipeline) -> list[str]:
        """What was found of memorisation."""
        wanted = self.recipe.memorisation
        if not wanted or self.train_data.streams:
            return []
        asked = self._sampled(pipe)
        (kind, values), steps = next(iter(asked.items())), [(g.h, g.w) for g in self.usual]
        batch_size = self.recipe.batch_size

        def samples() -> Iterator[Tensor]:
            for first in range(0, wanted, batch_size):
                part = range(first, min(first + batch_size, wanted))
                of: dict[str, Any] = {kind: [values[n % len(values)] for n in part]}
                made = pipe(**of, seed=self.recipe.seed, first_index=first, output="tensor",
                            progress=False, steps=steps)  # fmt: skip
                yield made.images * 2 - 1

        found = memorisation(
            samples(),
            self._in_order(self.validation_data, self.recipe.validation_images),
            self._in_order(self.train_data, MOST),
        )
        return [found.line()]

    def _in_order(self, data: Dataset, limit: int) -> Iterator[Tensor]:
        stream = ordered_batches(data, batch_size=self.recipe.batch_size, limit=limit)
        return (batch.images_B3HW for batch in stream)

    def describe(self) -> list[str]:
        """Parts, parameters, tokens per image, and what the run takes over."""
        assert self.recipe.backbone is not None
        drawn = [self.layout(step) for step in range(64)]
        tokens = sum(layout.tokens for layout in drawn) / len(drawn)
        lengths = [len(layout) for layout in drawn]
        return [
            f"backbone {self.recipe.backbone.name}: {self.count / 1e6:.2f} M parameters, "
            f"{self.config.num_classes} classes",
            f"{self.train_data.size[0]}x{self.train_data.size[1]} px, latent {self.last}: "
            f"{self.usual.tokens} tokens per image in {len(self.usual)} steps ({self.usual}); "
            f"in training {tokens:.0f} on average, in {min(lengths)} to {max(lengths)} steps",
            *self.notes,
        ]

    def next_command(self, directory: Path) -> str:
        """Pictures of a class, or of words."""
        command = ["flexvar", "generate", "--model", str(directory)]
        if self.recipe.sample_prompts:
            return shlex.join([*command, "--prompt", self.recipe.sample_prompts[0]])
        kind = takes(self.conditioner)
        if kind == "prompt":
            return shlex.join([*command, "--prompt", self._captions()[0]])
        if kind in ("image", "nothing"):
            return shlex.join(command)
        name = (self.config.class_names or ("0",))[0]
        return shlex.join([*command, "--label", name])

    def state(self) -> dict[str, Any]:
        """Which tokenizer the tokens are of."""
        return {"tokenizer": weights_hash(cast(nn.Module, self.tokenizer))}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Raise `FlexvarError` if the tokens are another tokenizer's now."""
        if state.get("tokenizer") not in (None, self.state()["tokenizer"]):
            raise FlexvarError(
                f"tokenizer: {self.recipe.tokenizer} holds other weights than when this run began, "
                "so its tokens mean something else. Bring the old ones back, or start a new run "
                "with another --out."
            )
