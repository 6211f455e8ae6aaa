"""What an objective has to do, with every tokenizer it is tried with."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from flexvar.components import Facts, Objective, Pairs, Tokenizer
from flexvar.contract.measure import (
    LEAK_TOLERANCE,
    demand,
    demand_members,
    equal_within,
    global_seed,
)
from flexvar.contract.tokenizers import LAYOUTS, parts_of, picture, tokenizer_of
from flexvar.contract.variant import Variant
from flexvar.layout import Layout

# Logits by which a model is sure, and the loss in nats that is left then, per part of a token.
SURE, NOTHING = 60.0, 1e-4


@dataclass(frozen=True, slots=True)
class Training:
    """An objective, and a tokenizer whose tokens are to be predicted."""

    objective: Variant
    tokenizer: Variant

    def __str__(self) -> str:
        return f"{self.objective.label}+{self.tokenizer.label}"

    def build(self) -> tuple[Any, Tokenizer]:
        """Both, the tokenizer with weights of a seed."""
        tokenizer = tokenizer_of(self.tokenizer)
        space = tokenizer.space
        facts = Facts(space.vocab_size, space.code_dim, 0, 0, 0, space.groups)
        objective = self.objective.build(facts)
        demand_members(objective, Objective)
        return objective, tokenizer


def known_answer(pairs: Pairs, vocab_size: int) -> Tensor:
    """Logits of a model that is sure of the targets."""
    return SURE * F.one_hot(pairs.targets, vocab_size).float()


def passes(objective: Any, tokenizer: Tokenizer, layout: Layout, seed: int = 0) -> list[Pairs]:
    """The pairs of a training step, and of the second pass of a model that knows the answer."""
    latent = tokenizer.features(picture(tokenizer, layout))
    rng = torch.Generator().manual_seed(seed)
    first = objective.pairs(tokenizer, latent, layout, rng)
    again = getattr(objective, "again", None)
    if again is None:
        return [first]
    logits = known_answer(first, tokenizer.space.vocab_size)
    second = again(tokenizer, first, logits, layout, rng)
    return [first] if second is None else [first, second]


@torch.no_grad()
def pairs_fit_their_layout(training: Training) -> None:
    """Inputs, targets and weights have the layout's shapes; targets are tokens."""
    objective, tokenizer = training.build()
    space = tokenizer.space
    for layout in LAYOUTS:
        for number, pairs in enumerate(passes(objective, tokenizer, layout)):
            where = f"layout {layout}, pass {number}"
            wanted = (2, layout.tokens - layout[0].cells, space.code_dim)
            found = tuple(pairs.inputs_BLC.shape)
            demand(found == wanted, f"{where}: inputs of shape {found}, expected {wanted}")
            demand(bool(pairs.inputs_BLC.isfinite().all()), f"{where}: inputs are not finite")
            own, asked = tuple(pairs.targets.shape), (2, layout.tokens, *parts_of(space))
            demand(own == asked, f"{where}: targets of shape {own}, expected {asked}")
            demand(pairs.targets.dtype == torch.int64, f"{where}: targets are no int64")
            low, high = int(pairs.targets.min()), int(pairs.targets.max())
            demand(
                low >= 0 and high < space.vocab_size,
                f"{where}: targets from {low} to {high}, vocab_size is {space.vocab_size}",
            )
            if pairs.weight_BL is not None:
                found = tuple(pairs.weight_BL.shape)
                fits = found in ((1, layout.tokens), (2, layout.tokens))
                demand(fits, f"{where}: weights of shape {found}")
                demand(float(pairs.weight_BL.min()) >= 0, f"{where}: a weight is negative")


@torch.no_grad()
def a_model_that_knows_the_answer_has_no_loss(training: Training) -> None:
    """The loss is 0 for logits sure of the targets, in every pass, and more for others."""
    objective, tokenizer = training.build()
    space = tokenizer.space
    for layout in LAYOUTS:
        for number, pairs in enumerate(passes(objective, tokenizer, layout)):
            where = f"layout {layout}, pass {number}"
            sure = known_answer(pairs, space.vocab_size)
            loss_BL = objective.loss(sure, pairs.targets)
            found, wanted = tuple(loss_BL.shape), (2, layout.tokens)
            demand(found == wanted, f"{where}: a loss of shape {found}, expected {wanted}")
            left = float(loss_BL.abs().max())
            demand(
                left <= NOTHING * space.groups,
                f"{where}: the loss of a model that knows the answer is {left:.3g} nats, not 0",
            )
            if space.vocab_size > 1:
                wrong = float(objective.loss(sure.roll(1, dims=-1), pairs.targets).mean())
                demand(wrong > 1, f"{where}: the loss of a wrong answer is {wrong:.3g} nats")


@torch.no_grad()
def pairs_follow_the_seed(training: Training) -> None:
    """The same random source gives the same pairs, whatever else is random; no state is kept."""
    objective, tokenizer = training.build()
    for layout in LAYOUTS:
        before = copy.deepcopy(vars(objective)) if hasattr(objective, "__dict__") else {}
        found = []
        for seed in (0, 1):
            with global_seed(seed):
                found.append(passes(objective, tokenizer, layout, seed=3))
        for one, other in zip(*found, strict=True):
            what = f"layout {layout}: inputs of the same random source"
            equal_within(other.inputs_BLC, one.inputs_BLC, LEAK_TOLERANCE, what)
            same = torch.equal(other.targets, one.targets)
            demand(same, f"layout {layout}: other targets of the same random source")
        after = cast(dict[str, Any], vars(objective)) if hasattr(objective, "__dict__") else {}
        demand(before.keys() == after.keys(), "the objective keeps state between calls")
