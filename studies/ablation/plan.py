"""What the ablation trains: five tokenizers, and the models over them, as recipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.harness.suite import parse_backbone
from flexvar.plugin import default_registry

# Lists for an 8x8 latent: one as VAR's fixed list, and every side there is.
FIXED = (1, 2, 3, 4, 6, 8)
EVERY = (1, 2, 3, 4, 5, 6, 7, 8)
SIDE = 8


@dataclass(frozen=True, slots=True)
class Budget:
    """How long everything trains and how much is sampled.

    *_steps: optimiser steps, of 16 digits or 8 photographs. width, depth: of all models but
    those of the scaling law, which has one per depth of ``depths``, width_per_depth times as
    wide (the papers' are 64 times). views: passes over the photographs whose latents are stored;
    0 for none, and none of the digits' either. samples: images per class behind
    a figure; traced: the same while a model is on its way. traces: looks on the way.
    classifier_steps: of the classifier that looks. validation: pictures.
    """

    digits_tokenizer_steps: int = 600
    photos_tokenizer_steps: int = 500
    digits_steps: int = 700
    photos_steps: int = 600
    scaling_steps: int = 500
    width: int = 96
    photos_width: int = 128
    depth: int = 4
    depths: tuple[int, ...] = (1, 2, 3, 4, 5, 6)
    width_per_depth: int = 32
    views: int = 3
    samples: int = 50
    photos_samples: int = 20
    traced: int = 20
    traces: int = 5
    classifier_steps: int = 300
    validation: int = 360


FULL = Budget()
QUICK = Budget(
    digits_tokenizer_steps=16,
    photos_tokenizer_steps=4,
    digits_steps=8,
    photos_steps=6,
    scaling_steps=8,
    width=32,
    photos_width=32,
    depth=2,
    depths=(1, 2, 3, 4, 5),
    width_per_depth=16,
    views=0,
    samples=2,
    photos_samples=1,
    traced=2,
    traces=2,
    classifier_steps=10,
    validation=16,
)


@dataclass(frozen=True, slots=True)
class TokenizerRun:
    """A tokenizer to train. recipe: a `TokenizerRecipe` without ``out`` and ``seed``."""

    name: str
    recipe: Mapping[str, Any]

    @property
    def data(self) -> str:
        """The set it is trained on."""
        return str(self.recipe["data"]["source"])


@dataclass(frozen=True, slots=True)
class ModelRun:
    """A model to train over a tokenizer.

    tokenizer: the name of a `TokenizerRun`, or of a bundled checkpoint. full: predict whole maps
    over a residual tokenizer's codebook. recipe: a `ModelRecipe` without ``tokenizer``, ``out``,
    ``cache`` and ``seed``. grids: the list that all figures are made with. by_steps: also sample
    in so many steps. traced: also measure samples while it is on its way.
    """

    name: str
    tokenizer: str
    recipe: Mapping[str, Any]
    full: bool = False
    grids: tuple[int, ...] = FIXED
    by_steps: tuple[int, ...] = ()
    traced: bool = False

    @property
    def data(self) -> str:
        """The set it is trained on."""
        return str(self.recipe["data"]["source"])


DIGITS = {"source": "digits", "size": 32}
PHOTOS = {"source": "photos", "size": 64}
BUNDLED = "photos"
D_MULTI, D_ONE, D_RESIDUAL = "digits multiscale", "digits one grid", "digits residual"
P_MULTI, P_RESIDUAL = "photos multiscale", "photos residual"


def tokenizers(budget: Budget) -> list[TokenizerRun]:
    """The tokenizers: equal networks, codebooks, losses and budgets on each set."""
    digits = {
        "vocab_size": 128, "code_dim": 8, "channels": 16, "channel_multipliers": [1, 1, 2],
        "blocks": 1, "groups": 8, "latent_channels": 32, "projection_kernel": 1,
    }  # fmt: skip
    photos = digits | {
        "vocab_size": 512, "code_dim": 16, "channels": 24, "channel_multipliers": [1, 1, 2, 2],
        "latent_channels": 48,
    }  # fmt: skip

    def run(name: str, network: dict[str, Any], kind: str, **more: Any) -> TokenizerRun:
        small = network is digits
        common: dict[str, Any] = {
            "data": DIGITS if small else PHOTOS,
            "tokenizer": {"name": kind, **network},
            "steps": budget.digits_tokenizer_steps if small else budget.photos_tokenizer_steps,
            "batch_size": 16 if small else 8,
            "losses": [{"name": "l1"}, {"name": "laplacian"}],
            "optimiser": _optimiser(1e-3, clip=1.0),
            "ema": 0.99,
        }
        return TokenizerRun(name, common | _quiet(common["steps"], budget) | more)

    var = {"training_schedule": {"name": "explicit", "grids": list(FIXED)}}
    return [
        run(D_MULTI, digits, "multiscale", random_grids=3),
        run(D_RESIDUAL, digits, "residual", **var),
        run(D_ONE, digits, "multiscale", random_grids=1),
        run(P_MULTI, photos, "multiscale", random_grids=3),
        run(P_RESIDUAL, photos, "residual", **var),
    ]


LEARNED = {"name": "learned2d", "side": 2 * SIDE}
RANDOM = {"name": "random", "steps": 8, "drop": 0.15}
EXPLICIT = {"name": "explicit", "grids": list(FIXED)}
OF_LIST = {"position": {"name": "per_scale", "grids": list(FIXED)}, "schedule": EXPLICIT,
           "training_schedule": EXPLICIT}  # fmt: skip
OF_ANY = {"position": LEARNED, "schedule": {"name": "ladder"}, "training_schedule": RANDOM}


def per_scale(step_embedding: bool) -> dict[str, Any]:
    """A table per grid, trained on random lists."""
    return {
        "name": "per_scale", "grids": list(EVERY), "subsets": True,
        "step_embedding": step_embedding,
    }  # fmt: skip


RESIDUAL = "residual prediction, residual tokenizer"
FULL_RESIDUAL = "full prediction, residual tokenizer"
FULL_ONE = "full prediction, tokenizer of one grid"
FULL_MULTI = "full prediction, multiscale tokenizer"
TABLE_STEP = "table per grid and step embedding"
TABLE_GRID = "table per grid"
SINUSOIDAL = "sinusoidal2d"
LEARNED_2D = "learned2d"
TRANSFORMER, MAMBA, MAMBA_RASTER = "transformer", "mamba, eight paths", "mamba, raster"


def models(budget: Budget) -> list[ModelRun]:
    """All models, those that share a table or a picture side by side."""
    return [*_digits(budget), *_photos(budget), *_scaling(budget)]


def _digits(budget: Budget) -> list[ModelRun]:
    def run(name: str, tokenizer: str, parts: dict[str, Any], **more: Any) -> ModelRun:
        recipe = model_recipe(DIGITS, budget.digits_steps, budget, budget.width) | parts
        if more.get("traced"):
            recipe["keep"] = budget.traces + 1
        return ModelRun(f"digits: {name}", tokenizer, recipe, **more)

    def position(name: str, embedding: dict[str, Any], **more: Any) -> ModelRun:
        return run(f"positions {name}", D_MULTI, OF_ANY | {"position": embedding}, **more)

    return [
        run(RESIDUAL, D_RESIDUAL, OF_LIST, traced=True),
        run(FULL_RESIDUAL, D_RESIDUAL, OF_LIST, full=True),
        run(FULL_ONE, D_ONE, OF_LIST),
        run(FULL_MULTI, D_MULTI, OF_LIST, traced=True),
        position(TABLE_STEP, per_scale(True)),
        position(TABLE_GRID, per_scale(False)),
        position(SINUSOIDAL, {"name": "sinusoidal2d"}),
        position(LEARNED_2D, LEARNED, by_steps=(2, 3, 4, 5, 6, 7, 8)),
    ]


def _photos(budget: Budget) -> list[ModelRun]:
    def run(name: str, tokenizer: str, parts: dict[str, Any], **more: Any) -> ModelRun:
        recipe = model_recipe(PHOTOS, budget.photos_steps, budget, budget.photos_width) | parts
        if more.get("traced"):
            recipe["keep"] = budget.traces + 1
        return ModelRun(f"photos: {name}", tokenizer, recipe, **more)

    width, depth = budget.photos_width, budget.depth
    mamba = {"name": "mamba", "depth": depth, "width": width, "state_size": 32}
    return [
        run(RESIDUAL, P_RESIDUAL, OF_LIST, traced=True),
        run(FULL_MULTI, P_MULTI, OF_LIST, traced=True),
        run(MAMBA, BUNDLED, OF_ANY | {"backbone": mamba}),
        run(MAMBA_RASTER, BUNDLED, OF_ANY | {"backbone": mamba | {"paths": "raster"}}),
        run(TRANSFORMER, BUNDLED, OF_ANY, by_steps=(2, 3, 4, 5, 6, 7, 8)),
    ]


def twins(budget: Budget, backbones: Sequence[str]) -> list[ModelRun]:
    """A model with each of these backbones, a plugin's too, as the photographs' transformer.

    Depth and width are set where a backbone has such options; else it takes its defaults.
    """
    runs = []
    for text in backbones:
        name, own = parse_backbone(text)
        config = getattr(default_registry().load("backbone", name), "Config", None)
        sizes = {"depth": budget.depth, "width": budget.photos_width}
        known = getattr(config, "model_fields", {})
        backbone = {"name": name} | {k: v for k, v in sizes.items() if k in known} | own
        recipe = model_recipe(PHOTOS, budget.photos_steps, budget, budget.photos_width) | OF_ANY
        runs.append(ModelRun(f"photos: backbone {text}", BUNDLED, recipe | {"backbone": backbone}))
    return runs


def _scaling(budget: Budget) -> list[ModelRun]:
    """The largest first, so that two processes end together."""
    runs = []
    for depth in sorted(budget.depths, reverse=True):
        width = budget.width_per_depth * depth
        recipe = model_recipe(DIGITS, budget.scaling_steps, budget, width) | OF_ANY
        recipe["backbone"] = transformer(depth, width)
        recipe["validate_every"] = max(1, budget.scaling_steps // 3)
        runs.append(ModelRun(f"scaling: transformer d{depth}", D_MULTI, recipe))
    return runs


def transformer(depth: int, width: int) -> dict[str, Any]:
    """A transformer with heads of 32, as many as fit."""
    return {"name": "transformer", "depth": depth, "width": width, "num_heads": max(1, width // 32)}


def model_recipe(data: dict[str, Any], steps: int, budget: Budget, width: int) -> dict[str, Any]:
    return {
        "data": data,
        "backbone": transformer(budget.depth, width),
        "steps": steps,
        "batch_size": 16 if data is DIGITS else 8,
        "optimiser": _optimiser(1e-3, clip=1.0),
        "ema": 0.995,
        "presets": {"default": {"guidance": 1.0, "top_p": 0.95}},
    } | _quiet(steps, budget)


def _optimiser(rate: float, clip: float) -> dict[str, Any]:
    return {"learning_rate": rate, "warmup": 0.03, "flat": 0.3, "final": 0.05, "clip": clip}


def _quiet(steps: int, budget: Budget) -> dict[str, Any]:
    """Logs for a curve, checkpoints to go on from, no pictures on the way."""
    part = max(1, steps // budget.traces)
    return {
        "tensorboard": False,
        "log_every": max(1, steps // 40),
        "validate_every": max(1, steps // (2 * budget.traces)),
        "validation_images": budget.validation,
        "sample_every": 0,
        "save_every": part,
        "keep": 1,
    }
