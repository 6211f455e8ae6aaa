"""What the comparison of backbones trains and times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from studies.ablation import plan as ablation
from studies.ablation.plan import ModelRun
from studies.backbones.match import matched

# State sizes of 32, as of the ablation's Mamba: at these widths the default is most of a model.
BACKBONES = (
    "transformer",
    "mamba state_size=32",
    "markov",
    "mvar state_size=32",
    "delta",
    "delta attention_every=2",
)


@dataclass(frozen=True, slots=True)
class Budget:
    """How much is trained and timed.

    training: as of the ablation. sets: pictures. seeds: of weights, order and samples. depth,
    width: of the transformer that sets the size where time is measured. sides: of the last grid
    there. repeats: of every timing.
    """

    training: ablation.Budget
    sets: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)
    depth: int = 4
    width: int = 128
    sides: tuple[int, ...] = (16, 32, 64)
    repeats: int = 5


FULL = Budget(ablation.FULL, ("digits", "photos"))
# About a quarter of an hour on one CPU core.
QUICK = Budget(
    replace(
        ablation.QUICK,
        digits_tokenizer_steps=240,
        digits_steps=80,
        width=64,
        depth=4,
        samples=6,
        classifier_steps=100,
        validation=90,
    ),
    ("digits",),
    width=64,
    repeats=1,
)


def run(data: str, backbone: str, budget: Budget, tokenizer: str) -> ModelRun:
    """One model: the ablation's recipe of a set, with a backbone of equal size."""
    digits = data == "digits"
    training = budget.training
    width = training.width if digits else training.photos_width
    steps = training.digits_steps if digits else training.photos_steps
    source = ablation.DIGITS if digits else ablation.PHOTOS
    recipe: Mapping[str, Any] = ablation.model_recipe(source, steps, training, width) | {
        **ablation.OF_ANY,
        "backbone": matched(backbone, training.depth, width),
    }
    return ModelRun(f"{data}: {backbone}", tokenizer, recipe)
