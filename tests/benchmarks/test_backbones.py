"""The comparison of backbones: equal sizes, options by name, three seeds, one page."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import command, models
from benchmarks.harness.suite import Options, parse_backbone
from flexvar.errors import FlexvarError
from studies.ablation import plan as ablation
from studies.backbones import match, page, plan
from studies.backbones import suite as backbones

TINY = plan.Budget(
    replace(
        ablation.QUICK, digits_tokenizer_steps=2, digits_steps=2, classifier_steps=2, samples=2,
        width=32, depth=2, validation=8,
    ),
    ("digits",), seeds=(0, 1), depth=2, width=32, sides=(4, 8), repeats=1,
)  # fmt: skip
ASKED = ("markov history=1", "delta attention_every=2")


def test_options_stand_behind_a_name() -> None:
    assert parse_backbone("markov history=3 width=8") == ("markov", {"history": 3, "width": 8})
    line = ["run", "x", "--backbone", "delta", "rule=reference", "depth=1", "--backbone", "markov"]
    assert command.joined(line, "--backbone") == [
        "run", "x", "--backbone", "delta rule=reference depth=1", "--backbone", "markov",
    ]  # fmt: skip
    spec = models.backbone_spec("markov history=3", 2, width=64)
    assert spec == {"name": "markov", "depth": 2, "width": 64, "history": 3}
    assert models.plain_of("transformer depth=2") == "eager"


@pytest.mark.parametrize("backbone", plan.BACKBONES)
def test_sizes_are_matched_to_three_percent(backbone: str) -> None:
    wanted = match.parameters("transformer", {"depth": 4, "width": 96, "num_heads": 4})
    spec = match.matched(backbone, 4, 96)
    name, given = parse_backbone(backbone)
    assert spec.pop("name") == name
    assert given.items() <= spec.items()
    assert abs(match.parameters(name, spec) / wanted - 1) <= 0.03


def test_a_size_out_of_reach_is_said() -> None:
    with pytest.raises(FlexvarError, match=r"--backbone markov width=8: no width and depth come"):
        match.matched("markov width=8", 4, 96)


def test_two_backbones_are_trained_timed_and_put_on_one_page(tmp_path: Path) -> None:
    options = Options(quick=True, backbones=ASKED)
    found = backbones.cases(options, root=tmp_path, budget=TINY)
    assert [case.name for case in found] == [
        f"{part}: {name}" for part in ("digits", "growth") for name in ASKED
    ]
    recipes = [case.settings["recipe"] for case in found[:2]]
    for key in ("steps", "batch_size", "optimiser", "ema", "data", "training_schedule"):
        assert recipes[0][key] == recipes[1][key]
    rows: list[dict[str, Any]] = []
    for case in found:
        figures = case.run()
        assert figures.pop("parity")
        rows.append(
            {"suite": case.suite, "case": case.name, "settings": dict(case.settings),
             "figures": figures, "status": "ok", "machine": {"cpu": "a test"}}
        )  # fmt: skip
    for row in rows[:2]:
        losses = [seed["validation"]["loss"] for seed in row["figures"]["seeds"]]
        assert len(set(losses)) == 2, "every seed trains a model of its own"
    kept = [[one["kept_mib"] for one in row["figures"]["sides"].values()] for row in rows[2:]]
    assert kept[0][0] == kept[0][1], "markov keeps the same whatever the grid"
    rows[1] |= {"status": "red", "reason": "they differ", "figures": {}}
    path = page.write(rows, backbones.root_of(True, tmp_path), tmp_path / "page")
    text = path.read_text()
    assert "| delta attention_every=2 | RED: they differ |" in text
    assert "markov history=1" in text
    assert "±" in text
    for name in (page.PICTURE, page.SAMPLES):
        assert (tmp_path / "page" / name).stat().st_size > 10_000
