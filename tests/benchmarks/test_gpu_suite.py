"""The suites for a GPU, tried on a CPU: every way of a case, and what is counted without one."""

from __future__ import annotations

import math
from importlib import metadata

import pytest
import torch

from benchmarks.harness import checkout, report
from benchmarks.harness.runner import Run
from benchmarks.harness.suite import Case, Options
from benchmarks.suites import gpu, launches
from flexvar.errors import FlexvarError
from flexvar.plugin import Registry

QUICK = Options(quick=True)


@pytest.mark.parametrize("case", gpu.cases(QUICK), ids=lambda case: case.name)
def test_every_way_of_a_case_runs_and_agrees(case):
    training = case.settings["kind"] == "train"
    run = gpu._train if training else gpu._generate
    torch._dynamo.reset()
    figures = run({**case.settings, "limit_s": math.inf, "repeats": 1})
    torch._dynamo.reset()
    assert figures["failed"] == {}
    ways = {name for name, one in figures.items() if isinstance(one, dict) and "median_s" in one}
    if training:
        assert ways >= {"plain step"}
        assert len(ways) > 1
    else:
        assert ways >= {"eager", "regions", "graphs", "graphs and regions"}
        assert set(figures["tokens_as_eager"].values()) == {1.0}
    assert ("plain loop" in ways) == (not training and "transformer" in case.name)
    assert figures["best"] in ways
    row = {
        "suite": gpu.SUITE, "case": case.name, "settings": dict(case.settings), "status": "ok",
        "implementation": figures.pop("implementation"), "parity": figures.pop("parity"),
        "figures": figures,
    }  # fmt: skip
    ((_, sections),) = report.by_suite([row])
    cells = [cell for table in sections[0].tables for line in table.body for cell in line]
    assert figures["best"] in cells


def test_ways_that_no_time_is_left_for_are_said():
    ways = {"eager": lambda: None, "other": lambda: 1 / 0}
    figures = gpu._turns(ways, {"limit_s": 0.0, "repeats": 2, "batch": 1}, torch.device("cpu"))
    assert set(figures["failed"].values()) == {"not reached: the time was spent"}
    figures = gpu._turns(ways, {"limit_s": 60.0, "repeats": 2, "batch": 1}, torch.device("cpu"))
    assert figures["failed"] == {"other": "ZeroDivisionError: division by zero"}
    assert (figures["best"], figures["eager"]["repeats"]) == ("eager", 2)


def test_the_wanted_comes_first_and_every_case_has_a_limit():
    found = gpu.cases(Options(device="cuda"))
    assert 8 <= len(found) <= 12
    assert [gpu.target_of(case.settings).goal for case in found[:3]] == pytest.approx(
        [5.0, 1e3 / 490, 1e3 / 350]
    )
    for case in found:
        target = gpu.target_of(case.settings)
        assert target.goal is None or target.floor < target.goal
        assert case.limit_s == gpu.LIMIT_S
    with pytest.raises(FlexvarError, match="measures a GPU, the device is cpu"):
        gpu.cases(Options(device="cpu"))


def test_a_case_ends_at_its_own_limit_or_the_users(tmp_path):
    class Child:
        case = Case("s", "c", {}, dict, limit_s=5.0)

    for timeout, limit in ((None, 5.0), (3.0, 3.0), (9.0, 5.0)):
        run = Run(QUICK, tmp_path / "rows.jsonl", timeout=timeout)
        assert run._limit(Child()) == limit
    Child.case = Case("s", "c", {}, dict)
    assert Run(QUICK, tmp_path / "rows.jsonl")._limit(Child()) is None


@pytest.mark.parametrize("case", launches.cases(QUICK), ids=lambda case: case.name)
def test_launches_are_counted_by_part(case):
    figures = case.run()
    assert sum(figures["parts"].values()) == figures["launches"] > 200
    assert figures["copies"] == {}
    assert sum(figures["by_scale"]) < figures["launches"]


def test_plugins_of_a_bare_checkout_are_found_without_an_install(monkeypatch):
    project = checkout.tomllib.loads((checkout.ROOT / "pyproject.toml").read_text())["project"]
    found = checkout._Finder(checkout._Checkout(project)).find_distributions()
    monkeypatch.setattr(metadata, "distributions", lambda: iter(found))
    registry = Registry()
    assert not registry.failures
    assert {"transformer", "mamba", "markov"} <= set(registry.names("backbone"))
    assert registry.find("sampler", "ssg").distribution == "flexvar"
