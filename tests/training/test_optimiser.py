"""Parameter groups, learning rates, averaged weights."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from flexvar.build import build
from flexvar.training.optimiser import Ema, adamw, decays, keep_fused, peak_rate, rate_factor
from flexvar.training.recipe import OptimiserConfig

from .conftest import CNN


def test_published_groups() -> None:
    model = build(
        {
            "tokenizer": {"name": "multiscale", **CNN},
            "backbone": {"name": "transformer", "depth": 1, "width": 32, "num_heads": 2,
                         "shared_modulation": True},
            "position": {"name": "learned2d", "side": 4},
            "num_classes": 3,
        }
    ).model  # fmt: skip
    assert model is not None
    kept = {name for name, p in model.named_parameters() if not decays(name, p)}
    assert {
        "start_embedding",
        "position.table",
        "backbone.blocks.0.attention.log_scale",
        "backbone.blocks.0.attention.q_bias",
        "backbone.blocks.0.modulation_offset",
        "head.logits.bias",
    } <= kept
    decayed = {name for name, p in model.named_parameters() if decays(name, p)}
    assert {"class_embedding.weight", "head.logits.weight", "token_embedding.weight"} <= decayed
    optimiser = adamw(model, OptimiserConfig(weight_decay=0.05))
    assert [group["weight_decay"] for group in optimiser.param_groups] == [0.05, 0.0]
    counts = [len(group["params"]) for group in optimiser.param_groups]
    assert counts == [len(decayed), len(kept)]


def test_learning_rate_over_a_run() -> None:
    config = OptimiserConfig(warmup=0.02, warmup_factor=0.005, flat=0.05, final=0.1)
    factors = [rate_factor(config, step, 1000) for step in range(1000)]
    assert factors[0] == pytest.approx(0.005)
    assert factors[10] == pytest.approx(0.005 + 0.995 / 2)
    assert factors[20:68] == [1.0] * 48
    assert factors[999] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(factors[20:]))
    constant = OptimiserConfig(warmup=0, flat=1, final=1)
    assert {rate_factor(constant, step, 7) for step in range(7)} == {1.0}
    assert rate_factor(config, 0, 1) == 1.0


def test_peak_follows_the_batch() -> None:
    config = OptimiserConfig(learning_rate=1e-4, reference_batch=256)
    assert peak_rate(config, 768) == pytest.approx(3e-4)
    assert peak_rate(OptimiserConfig(learning_rate=1e-4), 768) == 1e-4


def test_averaged_weights() -> None:
    module = nn.Linear(2, 2, bias=False)
    nn.init.zeros_(module.weight)
    ema = Ema(module, 0.9)
    nn.init.ones_(module.weight)
    ema.update(module, 0)  # decay (1 + 0) / (10 + 0)
    torch.testing.assert_close(ema.weights["weight"], torch.full((2, 2), 0.9))
    for step in range(200, 203):
        ema.update(module, step)
    torch.testing.assert_close(ema.weights["weight"], torch.full((2, 2), 1 - 0.1 * 0.9**3))


def test_a_fused_step_is_the_plain_one_and_each_goes_on_from_the_other() -> None:
    """A run that began on a GPU goes on without one, and the other way round."""
    torch.manual_seed(0)
    layers = {fused: nn.Linear(3, 3) for fused in (False, True)}
    layers[True].load_state_dict(layers[False].state_dict())
    optimisers = {
        fused: adamw(layer, OptimiserConfig(), fused=fused) for fused, layer in layers.items()
    }
    for turn in range(4):
        x = torch.randn(5, 3)
        for fused, layer in layers.items():
            optimisers[fused].zero_grad()
            layer(x).square().sum().backward()
            optimisers[fused].step()
        torch.testing.assert_close(layers[True].weight, layers[False].weight)
        if turn == 1:
            states = {fused: one.state_dict() for fused, one in optimisers.items()}
            for fused, one in optimisers.items():
                one.load_state_dict(states[not fused])
                keep_fused(one, fused=fused)
    for fused, one in optimisers.items():
        assert [bool(group["fused"]) for group in one.param_groups] == [fused] * 2
        assert {int(state["step"]) for state in one.state.values()} == {4}
