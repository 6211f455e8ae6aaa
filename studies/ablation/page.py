"""The ablation's sections: tables beside the published figures, pictures, and the page of both."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.harness.suite import Table
from flexvar.files import whole_file
from studies.ablation import plan, plots, published, tables

PAGE = "ablation.md"
UNWRITTEN = "_To be written after the run: where it agrees with the papers, and where not._"


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the page: a name for files and marks, a title, what is shown, its pictures."""

    name: str
    title: str
    text: str
    tables: list[Table] = field(default_factory=list)
    pictures: list[tuple[str, Image.Image]] = field(default_factory=list)


def parts(rows: Iterable[Mapping[str, Any]], root: Path) -> list[Part]:
    """All parts of which there are figures. root: where the runs and their sample grids are."""
    found = tables.by_case(rows)
    kept = [part for part in _all(found, root) if any(body for _, body in part.tables)]
    return kept


def _all(found: dict[str, list[dict[str, Any]]], root: Path) -> list[Part]:
    learned = f"digits: positions {plan.LEARNED_2D}"
    fixed = [
        f"digits: {name}"
        for name in (plan.RESIDUAL, plan.FULL_RESIDUAL, plan.FULL_ONE, plan.FULL_MULTI)
    ]
    return [
        Part(
            "tokenizers",
            "Tokenizers",
            "Equal networks, codebooks, losses and steps on each set. Recognised: share of the "
            "reconstructions of held-out pictures that a small classifier trained on the set takes "
            "for their class. Fréchet distance over its features, between those pictures and their "
            "reconstructions. Samples, below, are compared with as many real training pictures.",
            [tables.tokenizer_table(found)],
        ),
        Part(
            "prediction",
            "Prediction, tokenizer and positions (FlexVAR, table 4 and figure 4)",
            "Digits at 32 px, latent 8x8. Fixed lists: 1 2 3 4 6 8 with a learned table per grid "
            "and step, in training and sampling; random lists: new ones for every training step. "
            "Losses can be compared within one tokenizer only, samples always.",
            [tables.table_4(found)],
            [
                *_picture("prediction", plots.prediction(found)),
                *_picture("prediction-samples", plots.sample_grids(found, [*fixed, learned], root)),
            ],
        ),
        Part(
            "mamba",
            "Mamba against the transformer (FlexVAR, table 5)",
            "Photographs at 64 px over the bundled tokenizer; same depth, width, recipe, batches "
            "and seed. FlexVAR's table has the eight paths only.",
            [tables.table_5(found)],
            _picture("mamba", plots.twins(found, root)),
        ),
        Part(
            "positions",
            "Position embeddings (FlexVAR, table 6)",
            "Digits, full prediction over the multiscale tokenizer, random lists in training, all "
            "measured at 1 2 3 4 6 8.",
            [tables.table_6(found)],
        ),
        Part(
            "steps",
            "Quality against steps (FlexVAR, figure 6)",
            "The same weights, sampled in so many steps; none was trained again. In the paper "
            + ", ".join(
                f"{steps} steps give FID {fid} and IS {score}"
                for steps, (fid, score) in published.FIGURE_6.items()
            )
            + " (d24, 256 px).",
            [
                tables.steps_table(found, case)
                for case in (learned, f"photos: {plan.TRANSFORMER}")
                if found.get(case)
            ],
            _picture("steps", plots.steps(found)),
        ),
        Part(
            "scaling",
            "Scaling laws (VAR, figures 5 and 6)",
            "Digits, a transformer of depth d and width 32 d for each d, equal steps and batches. "
            "N counts the backbone (18 d width² and little more), in billions in the formulas, as "
            f"VAR's. VAR reports a correlation of about {published.LAW_CORRELATION}. The interval "
            "is that of the slope by Student's t over the sizes.",
            [tables.laws_table(found), tables.sizes_table(found)],
            _picture("scaling", plots.scaling_law(found)),
        ),
    ]


def write(rows: Iterable[Mapping[str, Any]], root: Path, out: Path) -> Path:
    """Write the page and its pictures to ``out``; prose below the tables that was there stays."""
    rows = list(rows)
    path = out / PAGE
    before = path.read_text(encoding="utf-8") if path.is_file() else ""
    lines = ["# Ablation: the papers' tables in small", "", *_origin(rows), ""]
    for part in parts(rows, root):
        lines += [f"## {part.title}", "", part.text, ""]
        for table in part.tables:
            lines += [tables.markdown(table), ""]
        for name, picture in part.pictures:
            file = out / f"ablation-{name}.png"
            with whole_file(file) as temporary:
                picture.save(temporary, format="PNG", optimize=True)
            lines += [f"![{part.title}]({file.name})", ""]
        lines += [_opening(part.name), _prose(before, part.name), "<!-- end -->", ""]
    with whole_file(path) as temporary:
        temporary.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return path


def _origin(rows: list[Mapping[str, Any]]) -> list[str]:
    seeds = sorted({row["settings"].get("seed", 0) for row in rows})
    broken = sorted({row["case"] for row in rows if not row.get("figures")})
    machine = rows[-1].get("machine", {})
    where = machine.get("gpu") or machine.get("cpu") or "an unnamed machine"
    lines = [
        f"Measured on {where}, seeds {', '.join(map(str, seeds))}, by "
        "`python -m benchmarks run ablation`; this page by `python -m studies.ablation`. "
        "Several seeds: mean ± standard deviation."
    ]
    if broken:
        lines += ["", f"Without figures: {', '.join(broken)}."]
    return lines


def _picture(name: str, picture: Image.Image | None) -> list[tuple[str, Image.Image]]:
    return [] if picture is None else [(name, picture)]


def _opening(name: str) -> str:
    return f"<!-- text: {name} -->"


def _prose(before: str, name: str) -> str:
    found = re.search(re.escape(_opening(name)) + r"\n(.*?)\n<!-- end -->", before, re.DOTALL)
    return found[1] if found else UNWRITTEN
