"""The contract of samplers and conditioners: it holds for the first party, and finds mistakes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from flexvar_plugins.conditioners.label import LabelConditioner
from flexvar_plugins.samplers.standard import StandardSampler
from torch import Tensor, nn

import flexvar
from flexvar import Component, Condition, Facts, Layout, Registry, contract
from flexvar.contract import measure


class Batchwise(StandardSampler):
    """Draws from logits whose mean over the batch was taken off."""

    def process(self, logits: Tensor, *rest: Any) -> Tensor:
        return super().process(logits - logits.mean(dim=0, keepdim=True), *rest)


class Spoiling(StandardSampler):
    """Divides the logits it is given in place."""

    def process(self, logits: Tensor, *rest: Any) -> Tensor:
        return logits.div_(0.7)


class Emptying(StandardSampler):
    """Leaves no token at the last scale."""

    def process(self, logits: Tensor, layout: Layout, step: int, latent: Tensor | None) -> Tensor:
        return torch.full_like(logits, -torch.inf) if step == len(layout) - 1 else logits


class Wavering(StandardSampler):
    """Has another weight at every call."""

    calls = 0

    def guidance(self, layout: Layout, step: int) -> float:
        self.calls += 1
        return float(self.calls)


class Noisy(StandardSampler):
    """Adds noise of the process's own source."""

    def process(self, logits: Tensor, *rest: Any) -> Tensor:
        return logits + torch.randn(logits.shape)


class Mingling(LabelConditioner):
    """A little of every image's condition in every other's."""

    def forward(self, inputs: Tensor) -> Condition:
        pooled_BD = super().forward(inputs).pooled_BD
        return Condition(pooled_BD + 0.1 * pooled_BD.mean(dim=0, keepdim=True))


class Guessing(LabelConditioner):
    """Has no condition that is the same for all: its null is the class before."""

    def null(self, inputs: Tensor) -> Tensor:
        return (inputs - 1).clamp_min(0)


class Careless(LabelConditioner):
    """Takes anything for class 0."""

    def collate(self, values: Sequence[Any]) -> Tensor:
        known = [v if isinstance(v, int) else 0 for v in values]
        pairs = zip(values, known, strict=True)
        return torch.tensor([self.num_classes if v is None else k for v, k in pairs])


class Unused(LabelConditioner):
    """Has a weight that nothing reads."""

    def __init__(self, config: Any, *, facts: Facts) -> None:
        super().__init__(config, facts=facts)
        self.extra = nn.Parameter(torch.ones(3))


def with_plugin(kind: str, cls: type) -> Registry:
    @flexvar.hookimpl
    def announce() -> Iterable[Component]:
        yield Component(name=cls.__name__.lower(), target=f"{__name__}:{cls.__name__}")

    registry = Registry()
    registry.add(SimpleNamespace(**{f"flexvar_{kind}s": announce}), distribution="test-plugin")
    return registry


@pytest.mark.parametrize(
    ("kind", "cls", "invariant", "message"),
    [
        ("sampler", Batchwise, "process keeps rows apart", "logits of a row alone: differ by"),
        ("sampler", Spoiling, "process keeps rows apart", "process changed the logits given"),
        ("sampler", Emptying, "process keeps rows apart", "no token is left in some place"),
        ("sampler", Wavering, "guidance is known beforehand", "guidance changes by itself"),
        ("sampler", Noisy, "tokens do not depend on the batch", "the same seed, other tokens"),
        (
            "conditioner",
            Mingling,
            "padding and neighbours change nothing",
            "alone and in its batch",
        ),
        ("conditioner", Guessing, "null is the same whatever it is made of", "of the value None"),
        ("conditioner", Careless, "what it does not know is refused", "collate takes any object"),
        ("conditioner", Unused, "gradients reach its weights", "no gradient reaches extra"),
    ],
)
def test_a_mistake_is_found_and_named(kind: Any, cls: type, invariant: str, message: str) -> None:
    cases = contract.cases(kind, cls.__name__.lower(), registry=with_plugin(kind, cls))
    chosen = [case for case in cases if str(case).startswith(invariant.replace(" ", "_"))]
    with pytest.raises(contract.ContractViolation, match=f"^{invariant}: .*{message}"):
        [case.run() for case in chosen]


def test_a_tolerance_spares_few_tokens_and_no_more() -> None:
    logits = torch.randn(2, 50, 7)
    flipped = logits.clone()
    flipped[0, 3] += 1
    measure.equal_within(flipped, logits, 1e-4, "logits", spare=0.01)
    with pytest.raises(contract.ContractViolation, match="logits: differ by"):
        measure.equal_within(flipped, logits, 1e-4, "logits")
    flipped[1, :5] += 1
    with pytest.raises(contract.ContractViolation, match="logits: differ by"):
        measure.equal_within(flipped, logits, 1e-4, "logits", spare=0.01)
