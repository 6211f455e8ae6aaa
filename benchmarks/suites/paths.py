"""Scan paths of the Mamba backbone: what eight of them cost beside fewer and plain row order."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.harness import models
from benchmarks.harness.cells import (
    Row,
    limit_cell,
    load_free,
    measured,
    milliseconds,
    mixed_rows,
    shown_rows,
)
from benchmarks.harness.suite import Case, Options, Section, Table
from benchmarks.suites import forward

SUITE = "paths"
SUMMARY = "The Mamba backbone along eight scan paths, a subset of them, and plain row order"
PATHS: dict[str, Any] = {
    "eight paths": "zigzag8",
    "two paths, rows": ["top_left_rows", "bottom_right_rows"],
    "two paths, rows and columns": ["top_left_rows", "top_left_columns"],
    "raster": "raster",
}


def cases(options: Options) -> list[Case]:
    """A case per choice of paths and size."""
    if options.quick:
        grid = [(2, 128, 1, "fp32")]
    elif options.on_gpu:
        grid = [(16, 256, 8, "bf16"), (16, 1024, 1, "bf16")]
    else:
        grid = [(8, 256, 1, "fp32"), (8, 512, 1, "fp32")]
    found = []
    for depth, pixels, batch, dtype in grid:
        for name, paths in PATHS.items():
            settings = options.settings(
                model=models.config(models.backbone_spec("mamba", depth, paths=paths)),
                paths=paths,
                pixels=pixels,
                batch=batch,
                dtype=dtype,
                repeats=5 if options.quick else 11,
            )
            title = f"mamba {name} d{depth} {pixels}px batch {batch} {dtype}"
            found.append(Case(SUITE, title, settings, partial(forward.measure, settings)))
    return found


def sections(rows: list[Row]) -> list[Section]:
    """All rows, and each choice of paths beside plain row order."""
    header = ("case", "all at once ms", "quartiles", "scale by scale ms", "quartiles", "peak MiB",
              "limit", "implementation")  # fmt: skip

    def cells(row: Row) -> list[object]:
        figures = row["figures"]
        times = [
            text
            for name in ("whole", "steps")
            for text in (
                milliseconds(figures[name]["median_s"]),
                " to ".join(milliseconds(figures[name][end]) for end in ("low_s", "high_s")),
            )
        ]
        return [
            *times,
            f"{figures['steps_peak_mib']:,.0f}",
            limit_cell(figures),
            row.get("implementation") or "not said",
        ]

    shown = shown_rows(rows)
    tables = [mixed_rows(header, shown, cells)]
    if body := _against_raster(measured(shown)):
        tables.append(Table(("case", "all at once / raster", "scale by scale / raster"), body))
    text = (
        "One pass of the model over all scales. Every mixer follows one path, so that more paths "
        "are no more scans: what they add is permuting the tokens before a mixer. "
        "Ratios are of times over that of a fixed product that took turns with each."
    )
    return [Section("Scan paths", text, tables=tables)]


def _against_raster(rows: list[Row]) -> list[list[object]]:
    body: list[list[object]] = []
    raster = {_where(row): row["figures"] for row in rows if row["settings"]["paths"] == "raster"}
    for row in rows:
        plain = raster.get(_where(row))
        if plain is None or row["settings"]["paths"] == "raster":
            continue
        ratios = [
            f"{load_free(row['figures'][name]) / load_free(plain[name]):.2f}"
            for name in ("whole", "steps")
        ]
        body.append([row["case"], *ratios])
    return body


def _where(row: Row) -> tuple[Any, ...]:
    given = row["settings"]
    depth = given["model"]["backbone"].get("depth")
    return depth, *(given[name] for name in ("pixels", "batch", "dtype", "device"))
