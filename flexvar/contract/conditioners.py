"""What a conditioner has to do by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from flexvar.build import build
from flexvar.components import Condition, Conditioner, Facts
from flexvar.components.conditioner import each, rows, takes
from flexvar.config import ComponentSpec
from flexvar.contract.combination import Combination
from flexvar.contract.measure import (
    BF16_TOLERANCE,
    STEP_TOLERANCE,
    ContractViolation,
    alike,
    demand,
    demand_members,
    equal_within,
    global_seed,
    randomise,
    unchanged,
)
from flexvar.contract.variant import Variant
from flexvar.errors import FlexvarError
from flexvar.layout import Layout
from flexvar.ops import precision

WIDTH = 64
FACTS = Facts(
    50, 8, WIDTH, 32, 5, class_names=("ant", "bee", "cat", "dog", "eel"), reads_tokens=True
)
# What is tried unless a class says ``contract_values``: labels, then words.
USUAL: tuple[tuple[Any, ...], ...] = ((0, None, 2), ("a cat", None, "two small red dogs"))


def conditioner_of(variant: Variant) -> Conditioner:
    """The conditioner with weights of a seed, in eval mode."""
    with global_seed(0):
        found = variant.build(FACTS)
    demand(isinstance(found, nn.Module), "it is no torch.nn.Module")
    demand_members(found, Conditioner)
    demand("pooled" in found.gives, f"gives is {set(found.gives)!r}; 'pooled' has to be in it")
    randomise(found)
    return cast(Conditioner, found.eval())


def values_of(variant: Variant, conditioner: Conditioner) -> list[Any]:
    """Three values to try, the second of which is None: those the class names, or usual ones."""
    if takes(conditioner) == "nothing":
        return [None] * 3
    named = getattr(variant.cls, "contract_values", None)
    if named is not None:
        first, last = named(variant.config) if callable(named) else named
        return [first, None, last]
    for values in USUAL:
        try:
            conditioner.collate(values)
        except (FlexvarError, TypeError, ValueError):
            continue
        return list(values)
    raise ContractViolation(
        "it takes neither labels nor words; give its class the attribute contract_values, two "
        "values to try it with"
    )


@torch.no_grad()
def gives_what_it_says(variant: Variant) -> None:
    """A pooled vector of the model's width for each value, and tokens if it says so; something
    else for another value; the same every time.
    """
    conditioner = conditioner_of(variant)
    values = values_of(variant, conditioner)
    inputs = conditioner.collate(values)
    demand(
        rows(inputs) == len(values), f"collate gives {rows(inputs)} rows for {len(values)} values"
    )
    with unchanged(conditioner=conditioner):
        found = conditioner.forward(inputs)
    again = conditioner.forward(conditioner.collate(values))
    demand(isinstance(found, Condition), f"forward gives {type(found).__name__}, not a Condition")
    shape = tuple(found.pooled_BD.shape)
    demand(
        shape == (len(values), WIDTH), f"pooled_BD has shape {shape}, not {(len(values), WIDTH)}"
    )
    equal_within(again.pooled_BD, found.pooled_BD, 0.0, "pooled_BD of two calls")
    apart = float((found.pooled_BD[0] - found.pooled_BD[2]).abs().max())
    demand(apart > 1e-6 or values[0] is None, "two values have the same pooled vector")
    if found.tokens_BTD is None:
        return
    demand("tokens" in conditioner.gives, "there are tokens, but 'tokens' is not in gives")
    shape = tuple(found.tokens_BTD.shape)
    demand(shape[::2] == (len(values), WIDTH), f"tokens_BTD has shape {shape}")
    if found.mask_BT is not None:
        mask = found.mask_BT
        demand(mask.dtype == torch.bool, f"mask_BT is {mask.dtype}, not bool")
        demand(tuple(mask.shape) == shape[:2], f"mask_BT has shape {tuple(mask.shape)}")


@torch.no_grad()
def null_is_the_same_whatever_it_is_made_of(variant: Variant) -> None:
    """``null`` gives one condition, in every row and of all inputs: that of the value None."""
    conditioner = conditioner_of(variant)
    values = values_of(variant, conditioner)
    inputs = conditioner.collate(values)
    null = conditioner.forward(conditioner.null(inputs))
    expected = conditioner.forward(conditioner.collate([None] * len(values)))
    other = conditioner.forward(conditioner.null(conditioner.collate(values[::-1])))
    for name, found in (("of the value None", expected), ("made of other values", other)):
        _same(found, null, range(len(values)), f"the condition of null and the one {name}")
    for row in range(1, len(values)):
        what = f"null in row 0 and in row {row}"
        equal_within(null.pooled_BD[row], null.pooled_BD[0], STEP_TOLERANCE, what)


@torch.no_grad()
def padding_and_neighbours_change_nothing(variant: Variant) -> None:
    """The condition of a value is the same alone and in a batch, with whatever padding it has."""
    conditioner = conditioner_of(variant)
    values = values_of(variant, conditioner)
    whole = conditioner.forward(conditioner.collate(values))
    for row, value in enumerate(values):
        alone = conditioner.forward(conditioner.collate([value]))
        what = f"the condition of value {row} alone and in its batch"
        equal_within(alone.pooled_BD[0], whole.pooled_BD[row], STEP_TOLERANCE, what)
        parts = [_tokens(one, place) for one, place in ((alone, 0), (whole, row))]
        if parts[0] is not None and parts[1] is not None:
            equal_within(parts[0], parts[1], STEP_TOLERANCE, f"{what}: its tokens")


def what_it_does_not_know_is_refused(variant: Variant) -> None:
    """A `FlexvarError` for a value that is nothing it could know."""
    conditioner = conditioner_of(variant)
    try:
        conditioner.collate([object()])
    except FlexvarError:
        return
    except Exception as error:
        raise ContractViolation(
            f"a strange value raises {type(error).__name__}, expected a FlexvarError that says "
            "what is taken"
        ) from error
    raise ContractViolation("collate takes any object")


def gradients_reach_its_weights(variant: Variant) -> None:
    """The pooled vector and the tokens have a gradient for every trainable weight."""
    conditioner = conditioner_of(variant)
    found = conditioner.forward(conditioner.collate(values_of(variant, conditioner)))
    total = (found.pooled_BD * torch.linspace(-1, 1, WIDTH)).sum()
    if found.tokens_BTD is not None:
        total = total + found.tokens_BTD.sin().sum()
    if total.requires_grad:
        total.backward()
    for name, weight in cast(nn.Module, conditioner).named_parameters():
        if weight.requires_grad:
            demand(
                weight.grad is not None and bool(weight.grad.any()), f"no gradient reaches {name}"
            )


@torch.no_grad()
def conditioner_moves_between_precisions(variant: Variant) -> None:
    """bf16 conditions are finite and near fp32's; fp32 comes back."""
    conditioner = conditioner_of(variant)
    inputs = conditioner.collate(values_of(variant, conditioner))
    exact = conditioner.forward(inputs).pooled_BD
    for dtype in (torch.bfloat16, torch.float32):
        precision.cast(cast(nn.Module, conditioner), dtype)
        found = conditioner.forward(each(Tensor.clone, inputs)).pooled_BD
        alike(found, exact, BF16_TOLERANCE, f"{dtype}: the pooled vector and that of fp32")


@dataclass(frozen=True, slots=True)
class Reading:
    """A conditioner, and a model that reads it."""

    conditioner: Variant
    model: Combination

    def __str__(self) -> str:
        return f"{self.conditioner.label}+{self.model}"


@torch.no_grad()
def a_model_reads_it(reading: Reading) -> None:
    """Scale by scale the logits are those of all at once, and another value gives others."""
    config = reading.model.config.model_copy(
        update={
            "conditioner": ComponentSpec.model_validate(reading.conditioner.spec),
            "class_names": FACTS.class_names,
        }
    )
    with global_seed(0):
        parts = build(config, reading.model.registry)
    model = parts.model
    assert model is not None
    randomise(model)
    model.eval()
    values = values_of(reading.conditioner, model.conditioner)
    inputs = model.conditioner.collate(values)
    layout = Layout.of(1, 2, (2, 3))
    source = torch.Generator().manual_seed(0)
    shape = (len(values), layout.tokens - 1, parts.tokenizer.space.code_dim)
    inputs_BLC = torch.randn(shape, generator=source)
    whole = model(inputs, inputs_BLC, layout)
    state = model.start(inputs, layout)
    for part in layout.slices:
        given = inputs_BLC[:, part.start - 1 : part.stop - 1] if part.start else None
        found, what = model.step(given, state), f"layout {layout}: logits of step and of forward"
        equal_within(found, whole[:, part], STEP_TOLERANCE, what, scale=float(whole.abs().max()))
    other = model(model.conditioner.collate(values[::-1]), inputs_BLC, layout)
    same = torch.equal(whole[0], other[0])
    demand(not same or values[0] is None, "another value changes no logits")


def _same(found: Condition, expected: Condition, places: Sequence[int], what: str) -> None:
    equal_within(found.pooled_BD, expected.pooled_BD, STEP_TOLERANCE, what)
    for place in places:
        parts = [_tokens(one, place) for one in (found, expected)]
        if parts[0] is not None and parts[1] is not None:
            equal_within(parts[0], parts[1], STEP_TOLERANCE, f"{what}: its tokens")


def _tokens(condition: Condition, row: int) -> Tensor | None:
    """The tokens of a row that are there."""
    if condition.tokens_BTD is None:
        return None
    tokens_TD = condition.tokens_BTD[row]
    return tokens_TD if condition.mask_BT is None else tokens_TD[condition.mask_BT[row]]
