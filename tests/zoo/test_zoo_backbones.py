"""The zoo's backbones: what each of them is about, and that they learn. Their contract is kept in
test_contract.py, with everybody else's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from flexvar_zoo.backbones import delta_rule
from torch import Tensor

import flexvar
from benchmarks.harness.measure import held_mib
from flexvar import Facts, Layout, Position

FACTS = Facts(vocab_size=20, code_dim=4, width=32, head_dim=16, num_classes=3)
SMALL = {"depth": 2, "width": 32, "num_heads": 2}
HYBRID = {"attention_every": 2}
LAYOUT = Layout.of(1, 2, (2, 3), 4)
ALL = [("markov", {}), ("markov", {"history": 2}), ("mvar", {}), ("delta", {}), ("delta", HYBRID)]


def make(name: str, **options: Any) -> Any:
    from flexvar.build import Choice
    from flexvar.config import parse
    from flexvar.plugin import default_registry

    torch.manual_seed(0)
    cls = default_registry().load("backbone", name)
    backbone = Choice(cls, parse(cls.Config, {**SMALL, "init_gate": 1.0, **options})).build(FACTS)
    return backbone.eval()


def changed_by(backbone: Any, scale: int) -> list[bool]:
    """Whether the features of each scale change when the inputs of one do."""
    torch.manual_seed(1)
    x_BLD, cond_BD = torch.randn(1, LAYOUT.tokens, 32), torch.randn(1, 32)
    other = x_BLD.clone()
    other[:, LAYOUT.slices[scale]] += torch.randn_like(other[:, LAYOUT.slices[scale]])
    with torch.no_grad():
        before, after = (backbone(x, cond_BD, LAYOUT, Position()) for x in (x_BLD, other))
    return [not torch.equal(before[:, part], after[:, part]) for part in LAYOUT.slices]


def test_markov_sees_its_own_scale_alone_and_history_as_far_as_it_goes() -> None:
    assert changed_by(make("markov"), 1) == [False, True, False, False]
    assert changed_by(make("markov", history=1), 1) == [False, True, True, False]
    assert changed_by(make("markov", history=2), 1) == [False, True, True, True]


@pytest.mark.parametrize(("name", "options"), ALL[2:])
def test_the_others_hand_on_what_they_saw(name: str, options: dict[str, Any]) -> None:
    assert changed_by(make(name, **options), 1) == [False, True, True, True]


@pytest.mark.parametrize(
    ("name", "options", "grows"),
    [("markov", {"history": 2}, False), ("mvar", {}, False), ("delta", {}, False),
     ("delta", HYBRID, True), ("transformer", {}, True)],
)  # fmt: skip
def test_what_is_kept_between_scales(name: str, options: dict[str, Any], grows: bool) -> None:
    backbone, cond_BD = make(name, **options), torch.randn(1, 32)

    def kept(layout: Layout) -> float:
        state = backbone.start(cond_BD, layout, Position())
        with torch.no_grad():
            for grid in layout:
                backbone.step(torch.randn(1, grid.cells, 32), state)
        return held_mib(state)

    assert (kept(Layout.of(1, 4, 24)) > 1.5 * kept(Layout.of(1, 4, 12))) == grows


def rule_inputs(length: int, state: bool) -> list[Tensor | None]:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    q, k, v = (draw(2, length, 3, 8) for _ in range(3))
    log_decay, beta = -F.softplus(draw(2, length, 3)), draw(2, length, 3).sigmoid()
    before = draw(2, 3, 8, 8) if state else None
    return [F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, log_decay, beta, before]


@pytest.mark.parametrize("length", [1, 5, 32, 33, 70])
@pytest.mark.parametrize("state", [False, True])
def test_the_chunked_rule_is_the_reference_with_its_gradients(length: int, state: bool) -> None:
    found = {}
    for name, rule in delta_rule.RULES.items():
        leaves = [
            x if x is None else x.clone().requires_grad_() for x in rule_inputs(length, state)
        ]
        y, after = rule(*leaves)
        (y.sin().sum() + after.cos().sum()).backward()
        found[name] = [y, after, *(x.grad for x in leaves if x is not None)]
    for one, other in zip(found["reference"], found["chunked"], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_the_rule_replaces_what_is_under_a_key() -> None:
    key = F.normalize(torch.randn(1, 1, 1, 4), dim=-1)
    values = torch.randn(1, 2, 1, 4)
    ones, zeros = torch.ones(1, 2, 1), torch.zeros(1, 2, 1)
    both = key.expand(1, 2, 1, 4)
    y, _ = delta_rule.reference(both, both, values, zeros, ones, None)
    torch.testing.assert_close(y, values)  # the second value alone: the first was taken back


@pytest.mark.parametrize(("name", "options"), ALL)
def test_a_few_steps_learn_a_picture(name: str, options: dict[str, Any]) -> None:
    parts = {
        "tokenizer": {"name": "multiscale", "channels": 32, "channel_multipliers": [1],
                      "blocks": 1, "latent_channels": 32, "vocab_size": 20, "code_dim": 4},
        "backbone": {"name": name, **SMALL, **options},
        "num_classes": 3,
    }  # fmt: skip
    model = flexvar.Pipeline.from_config(parts, seed=0).model.train()
    generator = torch.Generator().manual_seed(0)
    tokens_BL = torch.randint(20, (2, LAYOUT.tokens), generator=generator)
    inputs_BLC = torch.randn(2, LAYOUT.tokens - 1, 4, generator=generator)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(30):
        logits_BLV = model(torch.tensor([0, 2]), inputs_BLC, LAYOUT)
        loss = F.cross_entropy(logits_BLV.flatten(0, 1), tokens_BL.flatten())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
