"""How time and memory grow with the latent grid: attention against a scan of equal parameters."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, partial
from itertools import pairwise
from typing import Any

import torch

from benchmarks.harness import models, plots
from benchmarks.harness.cells import (
    Row,
    limit_cell,
    load_free,
    measured,
    milliseconds,
    mixed_rows,
    shown_rows,
)
from benchmarks.harness.suite import Case, Options, Section
from benchmarks.suites import forward
from flexvar import Pipeline

SUITE = "growth"
SUMMARY = "Time and memory of one pass against the latent grid, transformer and Mamba, crossover"
STRIDE = 16
WAYS = {"whole": "all at once", "steps": "scale by scale"}
MEMORY = {"steps_peak_mib": "most, scale by scale", "state_mib": "kept between scales"}
Points = list[tuple[float, float]]


def cases(options: Options) -> list[Case]:
    """A case per backbone and side of the last grid."""
    sides: tuple[int, ...]
    if options.quick:
        depth, width, sides, dtype, repeats = 2, 64, (8, 16), "fp32", 5
    elif options.on_gpu:
        depth, width, sides, dtype, repeats = 16, 1024, (16, 32, 48, 64, 96), "bf16", 11
    else:
        depth, width, sides, dtype, repeats = 4, 256, (16, 32, 64, 96), "fp32", 5
    found = []
    for side in sides:
        for backbone in options.chosen:
            chosen: dict[str, Any] = {}
            if backbone == "mamba":
                chosen["mlp_ratio"] = matched(depth, width)
            settings = options.settings(
                model=models.config(models.backbone_spec(backbone, depth, width=width, **chosen)),
                backbone=backbone,
                side=side,
                pixels=side * STRIDE,
                batch=1,
                dtype=dtype,
                repeats=repeats,
            )
            name = f"{backbone} d{depth} width {width} grid {side} ({side * STRIDE}px) {dtype}"
            found.append(Case(SUITE, name, settings, partial(forward.measure, settings)))
    return found


@cache
def matched(depth: int, width: int) -> float:
    """The MLP ratio at which Mamba has as many parameters as the transformer of this shape.

    The count is linear in the ratio; it is read off shapes, without making weights. Matched to
    one unit of the MLP per block.
    """
    wanted = _parameters(models.backbone_spec("transformer", depth, width=width))
    least, most = (
        _parameters(models.backbone_spec("mamba", depth, width=width, mlp_ratio=ratio))
        for ratio in (1.0, 4.0)
    )
    ratio = 1 + 3 * (wanted - least) / (most - least)
    return max(1, round(ratio * width)) / width


def _parameters(backbone: dict[str, Any]) -> int:
    with torch.device("meta"):
        pipe = Pipeline.from_config(models.config(backbone))
    return sum(p.numel() for p in pipe.model.backbone.parameters())


def crossover(first: Points, second: Points) -> float | None:
    """Where two curves cross, straight between the points in logarithms; None if they do not.

    Both at the same places; the last crossing, if there are several.
    """
    theirs = dict(second)
    gaps = [
        (math.log(place), math.log(value / theirs[place]))
        for place, value in sorted(first)
        if place in theirs
    ]
    found = None
    for (x0, y0), (x1, y1) in pairwise(gaps):
        if y0 * y1 < 0 or (y1 == 0 and y0 != 0):
            found = math.exp(x0 - y0 * (x1 - x0) / (y1 - y0))
    return found


def sections(rows: list[Row]) -> list[Section]:
    """All rows; time and memory against the side of the last grid, and where they cross."""
    header = ("case", "tokens", "all at once ms", "scale by scale ms", "peak MiB, at once",
              "peak MiB, by scale", "kept MiB", "parameters", "limit",
              "implementation")  # fmt: skip

    def cells(row: Row) -> list[object]:
        figures = row["figures"]
        return [
            figures["tokens"],
            *(milliseconds(figures[way]["median_s"]) for way in WAYS),
            *(f"{figures[f'{way}_peak_mib']:,.0f}" for way in WAYS),
            f"{figures['state_mib']:,.1f}",
            f"{figures['backbone_parameters'] / 1e6:.2f} M",
            limit_cell(figures),
            row.get("implementation") or "not said",
        ]

    shown = shown_rows(rows)
    text = [
        "One pass of the model over the scales of one picture, against the side of the last "
        "grid; both axes logarithmic. Backbones of equal parameters. Peak memory holds weights, "
        "logits and torch itself; what is kept is what the backbone hands on from scale to scale. "
        "Crossings are of times over that of a fixed product that took turns with each."
    ]
    x = "cells a side of the last grid"
    panels = []
    for way, words in WAYS.items():
        times = _curves(measured(shown), lambda f, way=way: 1e3 * f[way]["median_s"])
        at, said = _verdict(measured(shown), way)
        text += said
        panels.append(plots.lines(times, x, f"ms, {words}", at=at))
    for figure, words in MEMORY.items():
        memory = _curves(measured(shown), lambda f, figure=figure: f[figure])
        panels.append(plots.lines(memory, x, f"MiB, {words}"))
    sides = {row["settings"]["side"] for row in measured(shown)}
    pictures = [("Time and memory", plots.table(panels, columns=2))] if len(sides) > 1 else []
    tables = [mixed_rows(header, shown, cells)]
    return [Section("Growth with the grid", " ".join(text), pictures, tables)]


def _curves(rows: Sequence[Row], figure: Any) -> dict[str, Points]:
    found: dict[str, Points] = {}
    for row in rows:
        place = (row["settings"]["side"], figure(row["figures"]))
        found.setdefault(row["settings"]["backbone"], []).append(place)
    return found


def _verdict(rows: Sequence[Row], way: str) -> tuple[dict[str, float], list[str]]:
    """The crossing to mark, and a sentence about the first party's two curves.

    Of times without the machine's load. A crossing is one only if at the sizes around it the
    quartiles of the two lie apart.
    """
    timings: dict[str, dict[float, dict[str, Any]]] = {}
    for row in rows:
        given = row["settings"]
        timings.setdefault(given["backbone"], {})[given["side"]] = row["figures"][way]
    if not {"transformer", "mamba"} <= timings.keys():
        return {}, []
    ours, theirs = timings["transformer"], timings["mamba"]
    both = sorted(ours.keys() & theirs.keys())
    if len(both) < 2:
        return {}, []
    apart = [side for side in both if _apart(ours[side], theirs[side])]
    where = crossover(
        [(side, load_free(ours[side])) for side in apart],
        [(side, load_free(theirs[side])) for side in apart],
    )
    words, last = WAYS[way].capitalize(), both[-1]
    ratio = load_free(ours[last]) / load_free(theirs[last])
    share = f"at {last} the transformer takes {ratio:.2f} of Mamba's time"
    if last not in apart:
        share += ", which is within their spread"
    if where is None:
        return {}, [f"{words} no crossing within these sizes is beyond the spread; {share}."]
    return {"crossover": where}, [
        f"{words} they cross at {where:.0f} cells a side ({where * STRIDE:.0f} px); {share}."
    ]


def _apart(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return load_free(a, "high_s") < load_free(b, "low_s") or (
        load_free(b, "high_s") < load_free(a, "low_s")
    )
