"""Mamba's scan: fast against plain, state against prefix, and what eight paths cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from flexvar_plugins.backbones import ssd
from torch import Tensor

from benchmarks.harness import models, parity
from benchmarks.harness.cells import (
    Row,
    limit_cell,
    load_free,
    measured,
    milliseconds,
    mixed_rows,
    shown_rows,
)
from benchmarks.harness.measure import interleaved, summary
from benchmarks.harness.suite import Case, Options, Red, Section, Table
from benchmarks.suites import forward
from flexvar.layout import Layout

SUITE = "scan"
SUMMARY = "Mamba's scan beside the plain one, state beside prefix, eight paths beside fewer"
TOLERANCE = 1e-4
PATHS: dict[str, Any] = {
    "eight paths": "zigzag8",
    "two paths, rows": ["top_left_rows", "bottom_right_rows"],
    "two paths, rows and columns": ["top_left_rows", "top_left_columns"],
    "raster": "raster",
}
HEAD_DIM, STATES = 64, 128


def cases(options: Options) -> list[Case]:
    """The scan both ways, a generation, and a case per choice of paths and size."""
    depth, tokens = (2, 85) if options.quick else (16, 680)
    repeats = 3 if options.quick else 7
    found = []
    for both_ways in (False, True):
        settings = options.settings(
            heads=2 * depth, tokens=tokens, both_ways=both_ways, repeats=repeats
        )
        way = "forward and backward" if both_ways else "forward"
        name = f"torch beside reference, {way}, {tokens} tokens, {2 * depth} heads"
        found.append(Case(SUITE, name, settings, partial(_scans, settings)))
    depth, pixels = (2, 128) if options.quick else (8, 256)
    settings = options.settings(
        model=models.config(models.backbone_spec("mamba", depth)), pixels=pixels, repeats=repeats
    )
    name = f"state beside prefix, mamba d{depth} {pixels}px"
    found.append(Case(SUITE, name, settings, partial(_state, settings)))
    return found + _path_cases(options)


def _path_cases(options: Options) -> list[Case]:
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


def _scans(settings: dict[str, Any]) -> dict[str, Any]:
    """``torch`` beside ``reference``: fp32, heads of 64 channels, 128 states, one picture."""
    device, heads, tokens = settings["device"], settings["heads"], settings["tokens"]
    source = torch.Generator().manual_seed(settings["seed"])

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=source).to(device)

    leaves = [
        draw(1, tokens, heads, HEAD_DIM),
        F.softplus(draw(1, tokens, heads) - 3),
        -1 - 15 * torch.rand(heads, generator=source).to(device),
        draw(1, tokens, STATES),
        draw(1, tokens, STATES) / STATES**0.5,
        torch.ones(heads, device=device),
    ]
    trained = [leaf.clone().requires_grad_() for leaf in leaves]
    cotangent = draw(1, tokens, heads, HEAD_DIM)

    @torch.no_grad()
    def forward_only(scan: ssd.Scan) -> Sequence[Tensor]:
        return scan(ssd.Inputs(*leaves), None)

    def both_ways(scan: ssd.Scan) -> Sequence[Tensor]:
        y_BLHd, _ = scan(ssd.Inputs(*trained), None)
        return torch.autograd.grad(y_BLHd, trained, cotangent)

    way = both_ways if settings["both_ways"] else forward_only
    return _beside(lambda: way(ssd.reference), lambda: way(ssd.chunked), settings["repeats"])


@torch.inference_mode()
def _state(settings: dict[str, Any]) -> dict[str, Any]:
    """All scales with guidance: the whole prefix each time, beside the state handed on."""
    pipe = models.pipeline(settings["model"], seed=settings["seed"], device=settings["device"])
    layout, model = models.layout_of(settings["pixels"]), pipe.model
    tried = parity.trial(pipe, layout, rows=2)
    first = layout[0].cells
    inputs_BLC = tried.inputs_BLC

    def with_prefix() -> Sequence[Tensor]:
        parts = []
        for step, part in enumerate(layout.slices):
            prefix = Layout(layout.grids[: step + 1])
            parts.append(model(tried.labels_B, inputs_BLC[:, : part.stop - first], prefix)[:, part])
        return parts

    def with_state() -> Sequence[Tensor]:
        state = model.start(tried.labels_B, layout)
        return [
            model.step(inputs_BLC[:, tried.part(step)] if step else None, state)
            for step in range(len(layout))
        ]

    return _beside(with_prefix, with_state, settings["repeats"])


def _beside(
    plain: Callable[[], Sequence[Tensor]], fast: Callable[[], Sequence[Tensor]], repeats: int
) -> dict[str, Any]:
    """Both in turn, once they are seen to give the same. Raises `Red` if they do not."""
    greatest = max(
        float((one - other).abs().max() / other.abs().max().clamp_min(1))
        for one, other in zip(fast(), plain(), strict=True)
    )
    report = {
        "compared": "all results of the plain and the fast way, fp32, by the largest number",
        "tolerance": TOLERANCE,
        "greatest": greatest,
    }
    if not greatest <= TOLERANCE:
        raise Red(f"the fast way differs from the plain one by {greatest:.2g}", report)
    times = interleaved({"plain": plain, "fast": fast}, repeats)
    timings = {name: summary(seconds) for name, seconds in times.items()}
    ratio = timings["plain"]["median_s"] / timings["fast"]["median_s"]
    return {**timings, "ratio": round(ratio, 3), "parity": report}


def sections(rows: list[Row]) -> list[Section]:
    """Plain ways beside fast ones; each choice of paths beside plain row order."""
    shown = shown_rows(rows)
    paths = [row for row in shown if "paths" in row["settings"]]
    found = []
    if beside := [row for row in shown if "paths" not in row["settings"]]:
        text = (
            "The scan of chunks beside the recurrence, and a generation that hands its state on "
            "beside one that runs the prefix again at every scale. Both give the same, and take "
            "turns."
        )
        found.append(Section("Scan", text, tables=[_beside_table(beside)]))
    if paths:
        tables = [_paths_table(paths)]
        if body := _against_raster(measured(paths)):
            tables.append(Table(("case", "all at once / raster", "scale by scale / raster"), body))
        text = (
            "One pass of the model over all scales. Every mixer follows one path, so that more "
            "paths are no more scans: what they add is permuting the tokens before a mixer. "
            "Ratios are of times over that of a fixed product that took turns with each."
        )
        found.append(Section("Scan paths", text, tables=tables))
    return found


def _beside_table(rows: list[Row]) -> Table:
    header = ("case", "plain ms", "quartiles", "fast ms", "quartiles", "plain / fast")

    def cells(row: Row) -> list[object]:
        found: list[object] = []
        for name in ("plain", "fast"):
            low, middle, high = (
                milliseconds(row["figures"][name][key]) for key in ("low_s", "median_s", "high_s")
            )
            found += [middle, f"{low} to {high}"]
        return [*found, f"{row['figures']['ratio']:.2f}"]

    return mixed_rows(header, rows, cells)


def _paths_table(rows: list[Row]) -> Table:
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

    return mixed_rows(header, rows, cells)


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
