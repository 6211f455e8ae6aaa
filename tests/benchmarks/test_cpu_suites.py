"""The suites for a CPU in small: every way is timed, and distances are those of distributions."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.harness.measure import chosen_clock
from benchmarks.harness.suite import Options
from benchmarks.suites import generate_cpu, precision
from flexvar.errors import FlexvarError
from flexvar.ops import int8

HERE = pytest.mark.skipif(bool(int8.why_not()), reason=f"no int8 here: {int8.why_not()}")
TINY_CNN = {
    "name": "multiscale", "channels": 32, "channel_multipliers": [1, 1, 1], "blocks": 1,
    "latent_channels": 32, "vocab_size": 64, "code_dim": 8,
}  # fmt: skip


def row(case, suite, figures):
    return {
        "suite": suite, "case": case.name, "settings": dict(case.settings), "status": "ok",
        "implementation": figures.pop("implementation"), "parity": figures.pop("parity"),
        "figures": figures,
    }  # fmt: skip


@HERE
def test_every_precision_is_held_against_the_plain_loop():
    (case,) = generate_cpu.cases(Options(quick=True))
    model = {**case.settings["model"], "tokenizer": TINY_CNN}
    model["backbone"] = {"name": "transformer", "depth": 2, "width": 128}
    figures = generate_cpu._run({**case.settings, "model": model, "pixels": 64})
    assert figures["ratio"]["int8"] == pytest.approx(
        figures["plain bf16"]["median_s"] / figures["flexvar int8"]["median_s"], abs=2e-3
    )
    assert all(0 < share < 1 for share in figures["reached"].values())
    assert figures["clock"] == chosen_clock(torch.device("cpu"))[0]
    assert figures["parity"]["same_tokens"]
    (section,) = generate_cpu.sections([row(case, generate_cpu.SUITE, figures)])
    assert len(section.tables[0].body[0]) == len(section.tables[0].header)
    with pytest.raises(FlexvarError, match="Suite generate-cpu measures a CPU"):
        generate_cpu.cases(Options(device="cuda"))


def test_the_distance_of_logits_is_that_of_their_distributions():
    exact = torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]]).log()
    other = torch.tensor([[0.25, 0.5, 0.25], [0.2, 0.2, 0.6]]).log()
    assert precision.distance(exact, exact + 3) == {"kl_nats": 0.0, "same": 1.0}
    expected = 0.5 * (0.5 * math.log(2) - 0.25 * math.log(2))
    assert precision.distance(exact, other) == {
        "kl_nats": pytest.approx(expected, abs=1e-6), "same": 0.5,
    }  # fmt: skip


@HERE
def test_a_models_logits_in_other_precisions_are_near():
    case = precision.cases(Options(quick=True))[0]
    figures = precision._run(case.settings)
    assert 0 < figures["bf16"]["kl_nats"] < 2e-3
    assert 0 < figures["int8"]["kl_nats"] < 5e-3
    assert figures["int8"]["same"] > 0.9
    (section,) = precision.sections([row(case, precision.SUITE, figures)])
    assert len(section.tables[0].body[0]) == len(section.tables[0].header)
