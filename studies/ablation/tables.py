"""Rows to tables: Markdown with what is measured beside what the papers report."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.harness.suite import Table
from studies.ablation import plan, published, scaling

Rows = Mapping[str, Sequence[Mapping[str, Any]]]


def by_case(rows: Iterable[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Figures by case, one per seed, the latest row of each; red and failed rows are left out."""
    latest: dict[tuple[str, Any], dict[str, Any]] = {}
    for row in rows:
        if row.get("figures"):
            latest[row["case"], row["settings"].get("seed", 0)] = row["figures"]
    found: dict[str, list[dict[str, Any]]] = {}
    for (case, _), figures in sorted(latest.items(), key=lambda item: str(item[0])):
        found.setdefault(case, []).append(figures)
    return found


def look(figures: Mapping[str, Any], path: str) -> float:
    """A figure by a dotted path."""
    value: Any = figures
    for key in path.split("."):
        value = value[key]
    return float(value)


def mean(rows: Rows, case: str, path: str) -> float | None:
    """The mean over the seeds; None if the case has no figures."""
    values = [look(figures, path) for figures in rows.get(case, ())]
    return statistics.mean(values) if values else None


def cell(rows: Rows, case: str, path: str, digits: int = 3, scale: float = 1.0) -> str:
    """The mean over the seeds, with the standard deviation where there are several."""
    values = [scale * look(figures, path) for figures in rows.get(case, ())]
    if not values:
        return "-"
    text = f"{statistics.mean(values):.{digits}f}"
    return text if len(values) < 2 else f"{text} ± {statistics.stdev(values):.{digits}f}"


def short(case: str) -> str:
    """A case without the set it is of."""
    return case.split(": ", 1)[-1].removeprefix("positions ")


def tokenizer_table(rows: Rows) -> Table:
    """All tokenizers: what reconstructions of held-out pictures are worth, beside those."""
    head = (
        "tokenizer", "PSNR dB", "SSIM", "codes in use", "recognised", "of the pictures themselves",
        "Fréchet",
    )  # fmt: skip
    body: list[tuple[str, ...]] = []
    for case in (f"tokenizer: {run.name}" for run in plan.tokenizers(plan.FULL)):
        if not rows.get(case):
            continue
        body.append(
            (
                short(case),
                cell(rows, case, "reconstructions.psnr", 2),
                cell(rows, case, "reconstructions.ssim"),
                cell(rows, case, "reconstructions.usage", 0, 100) + " %",
                cell(rows, case, "reconstructions.accuracy_reconstructed", 1, 100) + " %",
                cell(rows, case, "reconstructions.accuracy_held_out", 1, 100) + " %",
                cell(rows, case, "reconstructions.rfid_offline"),
            )
        )
    return Table(head, body)


def table_4(rows: Rows) -> Table:
    """Prediction type, tokenizer and positions."""
    head = ("digits", "lists", "recognised", "Fréchet", "recall", "loss", "FID in the paper")
    cases = [
        (f"digits: {plan.RESIDUAL}", "fixed"),
        (f"digits: {plan.FULL_RESIDUAL}", "fixed"),
        (f"digits: {plan.FULL_ONE}", "fixed"),
        (f"digits: {plan.FULL_MULTI}", "fixed"),
        (f"digits: positions {plan.TABLE_STEP}", "random"),
        (f"digits: positions {plan.LEARNED_2D}", "random"),
    ]
    body: list[tuple[str, ...]] = []
    for case, lists in cases:
        if not rows.get(case):
            continue
        name = short(case) if lists == "fixed" else f"{plan.FULL_MULTI}, {short(case)}"
        paper = _fid(published.TABLE_4.get(case, math.nan))
        body.append((name, lists, *_samples(rows, case), paper))
    return Table(head, body)


def twin_cases(rows: Rows) -> list[str]:
    """The paper's backbones first, then any other that was measured beside them."""
    others = sorted(case for case in rows if case.startswith("photos: backbone "))
    return [*(case for case in published.TABLE_5 if rows.get(case)), *others]


def table_5(rows: Rows) -> Table:
    """Mamba against the transformer."""
    head = (
        "photos", "parameters", "loss", "last scale", "recognised", "Fréchet", "images/s",
        "FID / IS in the paper",
    )  # fmt: skip
    body: list[tuple[str, ...]] = []
    for case in twin_cases(rows):
        paper = published.TABLE_5.get(case)
        count = mean(rows, case, "parameters")
        body.append(
            (
                short(case),
                "-" if count is None else f"{count / 1e6:.2f} M",
                cell(rows, case, "validation.loss"),
                cell(rows, case, "validation.last_loss"),
                cell(rows, case, "samples.accuracy", 1, 100) + " %",
                cell(rows, case, "samples.frechet"),
                cell(rows, case, "images_per_second", 0),
                "-" if paper is None else f"{paper[0]} / {paper[1]}",
            )
        )
    return Table(head, body)


def table_6(rows: Rows) -> Table:
    """Position embeddings, all on random lists over one tokenizer."""
    head = (
        "positions (digits)", "loss", "last scale", "recognised", "Fréchet", "recall",
        "FID in the paper",
    )  # fmt: skip
    body: list[tuple[str, ...]] = []
    for case, paper in published.TABLE_6.items():
        if not rows.get(case):
            continue
        recognised, distance, recall, loss = _samples(rows, case)
        last = cell(rows, case, "validation.last_loss")
        body.append((short(case), loss, last, recognised, distance, recall, f"{paper:.2f}"))
    return Table(head, body)


def _fid(paper: float | None) -> str:
    if paper is None:
        return "diverges"
    return "-" if math.isnan(paper) else f"{paper:.2f}"


def _samples(rows: Rows, case: str) -> tuple[str, str, str, str]:
    return (
        cell(rows, case, "samples.accuracy", 1, 100) + " %",
        cell(rows, case, "samples.frechet"),
        cell(rows, case, "samples.recall"),
        cell(rows, case, "validation.loss"),
    )


def steps_table(rows: Rows, case: str) -> Table:
    """Quality against the number of steps of one model, by the list of grids."""
    head = (f"steps, {case}", "grids", "recognised", "Fréchet", "ms per image")
    body: list[tuple[str, ...]] = []
    for number, first in enumerate(rows.get(case, [{}])[0].get("by_steps", [])):
        found = [figures["by_steps"][number] for figures in rows[case]]

        def average(name: str, found: list[dict[str, Any]] = found) -> float:
            return statistics.mean(float(one[name]) for one in found)

        body.append(
            (
                str(first["steps"]),
                first["grids"],
                f"{100 * average('accuracy'):.1f} %",
                f"{average('frechet'):.3f}",
                f"{1000 * average('seconds_per_image'):.1f}",
            )
        )
    return Table(head, body)


def scaling_cases(rows: Rows) -> list[str]:
    """The sizes, smallest first."""
    cases = [case for case in rows if case.startswith("scaling: ")]
    return sorted(cases, key=lambda case: look(rows[case][0], "backbone_parameters"))


def laws(rows: Rows) -> dict[str, scaling.PowerLaw]:
    """The fitted law of each measure, N in billions of backbone parameters; empty below 3 sizes."""
    cases = scaling_cases(rows)
    if len(cases) < 3:
        return {}
    sizes = [look(rows[case][0], "backbone_parameters") / 1e9 for case in cases]
    return {
        name: scaling.fit(sizes, [mean(rows, case, f"validation.{name}") or 0.0 for case in cases])
        for name in published.LAWS
    }


def laws_table(rows: Rows) -> Table:
    """Fitted laws beside the published ones."""
    head = ("measure", "fitted", "exponent, 95 % interval", "correlation", "VAR", "VAR's exponent")
    body: list[tuple[str, ...]] = []
    for name, law in laws(rows).items():
        factor, exponent = published.LAWS[name]
        body.append(
            (
                published.LAW_NAMES[name],
                f"({law.factor:.3g} N)^{law.exponent:.3f}",
                f"{law.exponent:.3f} [{law.low:.3f}, {law.high:.3f}]",
                f"{law.correlation:.4f}",
                f"({factor:g} N)^{exponent:g}",
                f"{exponent:g}",
            )
        )
    return Table(head, body)


def sizes_table(rows: Rows) -> Table:
    """Every size of the scaling law."""
    head = (
        "model (digits)", "N of the backbone", "loss", "last scale", "token error", "last scale",
        "training loss", "Fréchet",
    )  # fmt: skip
    body: list[tuple[str, ...]] = []
    for case in scaling_cases(rows):
        count = look(rows[case][0], "backbone_parameters")
        figures = [
            cell(rows, case, f"validation.{name}")
            for name in ("loss", "last_loss", "error", "last_error")
        ]
        body.append(
            (
                short(case),
                f"{count / 1e6:.3f} M",
                *figures,
                cell(rows, case, "training"),
                cell(rows, case, "samples.frechet"),
            )
        )
    return Table(head, body)


def markdown(table: Table) -> str:
    """The table in Markdown."""
    head, body = table
    lines = [head, tuple("---" for _ in head), *body]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
