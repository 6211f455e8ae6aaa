"""The papers' ablations in small: every case is a training run of its own, resumable.

A case whose run is finished is measured only. ``python -m studies.ablation`` turns rows into
benchmarks/results/ablation.md. Runs live in runs/ablation, or where FLEXVAR_ABLATION_RUNS says.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness.suite import Case, Options, Section
from studies.ablation import measure, page, plan, trained
from studies.ablation.plan import Budget
from studies.ablation.trained import Place

SUITE = "ablation"
SUMMARY = "FlexVAR's tables 4 to 6 and figure 6 and VAR's scaling laws, on small trained models"


def cases(
    options: Options, *, root: Path = trained.WORK, budget: Budget | None = None
) -> list[Case]:
    """A case for every tokenizer and model, or for each of the backbones that are asked for.

    root: where runs live; budget: of training.
    """
    budget = budget or (plan.QUICK if options.quick else plan.FULL)
    place = Place(trained.root_of(options.quick, root), budget, options.device, options.seed)
    measured = ("views", "classifier_steps", "validation")
    common = {name: getattr(budget, name) for name in measured}
    common |= options.settings()
    found = [
        Case(
            suite=SUITE,
            name=f"tokenizer: {run.name}",
            settings={**common, "recipe": run.recipe},
            run=partial(measure.tokenizer_figures, run, place),
        )
        for run in plan.tokenizers(budget)
    ]
    chosen = plan.models(budget)
    if options.backbones:
        # Over the bundled tokenizer, beside nothing but each other.
        found, chosen = [], plan.twins(budget, options.backbones)
    for run in chosen:
        digits = run.data == "digits"
        settings = common | {
            "recipe": run.recipe,
            "tokenizer": run.tokenizer,
            "full": run.full,
            "grids": list(run.grids),
            "by_steps": list(run.by_steps),
            "traced": budget.traced if run.traced else 0,
            "samples": budget.samples if digits else budget.photos_samples,
        }
        found.append(
            Case(
                suite=SUITE,
                name=run.name,
                settings=settings,
                run=partial(measure.model_figures, run, place),
            )
        )
    return found


def sections(rows: Iterable[Mapping[str, Any]], *, root: Path = trained.WORK) -> list[Section]:
    """Tables and pictures of the rows; of quick ones only if there are no others."""
    rows = list(rows)
    whole = [row for row in rows if not row["settings"].get("quick")]
    place = trained.root_of(not whole, root)
    return [
        Section(part.title, part.text, part.pictures, part.tables)
        for part in page.parts(whole or rows, place)
    ]
