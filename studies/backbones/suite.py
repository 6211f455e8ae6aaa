"""Backbones against each other: equal data, steps, seeds and parameters; quality, time, memory.

``python -m studies.backbones ROWS.jsonl`` turns rows into backbones.md.
Runs live in runs/backbones beside the ablation's, or where FLEXVAR_ABLATION_RUNS says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness.suite import Case, Options, Section
from studies.ablation import trained
from studies.ablation.trained import Place
from studies.backbones import match, measure, page, plan

SUITE = "backbones"
SUMMARY = "Transformer, Mamba and the zoo, trained alike at equal size: quality, time, memory"


def cases(
    options: Options, *, root: Path = trained.WORK, budget: plan.Budget | None = None
) -> list[Case]:
    """A case per set and backbone, which trains three seeds, and one per backbone for time."""
    budget = budget or (plan.QUICK if options.quick else plan.FULL)
    place = Place(root_of(options.quick, root), budget.training, options.device, 0)
    chosen = options.backbones or plan.BACKBONES
    found = []
    for data in budget.sets:
        for backbone in chosen:
            recipe = plan.run(data, backbone, budget, data).recipe
            settings = options.settings(
                data=data, backbone=backbone, recipe=recipe, seeds=list(budget.seeds)
            )
            call = partial(measure.quality, data, backbone, budget, place)
            found.append(Case(SUITE, f"{data}: {backbone}", settings, call))
    for backbone in chosen:
        spec = match.matched(backbone, budget.depth, budget.width)
        settings = options.settings(
            backbone=backbone, model=spec, sides=list(budget.sides), repeats=budget.repeats
        )
        call = partial(measure.growth, spec, budget, options.device)
        found.append(Case(SUITE, f"growth: {backbone}", settings, call))
    return found


def sections(rows: Iterable[Mapping[str, Any]], *, root: Path = trained.WORK) -> list[Section]:
    """Tables and the picture; of quick rows only if there are no others."""
    rows = list(rows)
    whole = [row for row in rows if not row["settings"].get("quick")]
    return page.sections(whole or rows, root_of(not whole, root))


def root_of(quick: bool, root: Path = trained.WORK) -> Path:
    """Where the runs of a budget live."""
    return root / "backbones" / ("quick" if quick else "full")
