"""Generation: latency and throughput, where the time goes, peak memory, beside the plain loop."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any

from benchmarks.harness import models, parity, plots, roofline
from benchmarks.harness.cells import (
    Row,
    limit_cell,
    measured,
    milliseconds,
    mixed_rows,
    shown_rows,
)
from benchmarks.harness.measure import PeakMemory, interleaved, summary, timed
from benchmarks.harness.suite import Case, Options, Section, Table
from benchmarks.suites import generation

SUITE = "generate"
SUMMARY = "Latency, throughput and memory of generation, by part and scale, beside the plain loop"
SPLITS = 3
PAIRS = 7


def cases(options: Options) -> list[Case]:
    """A case per backbone, depth, size, batch and dtype; the plain loop beside the transformer."""
    found = []
    for depth, pixels, batch, dtype in _grid(options):
        for backbone in options.chosen:
            common = options.settings(
                pixels=pixels,
                batch=batch,
                dtype=dtype,
                repeats=_repeats(options, batch),
                **generation.SAMPLING,
                guidance_schedule=generation.GUIDANCE_SCHEDULE,
            )
            settings = common | {"model": models.config(models.backbone_spec(backbone, depth))}
            where = f"d{depth} {pixels}px batch {batch} {dtype}"
            found.append(Case(SUITE, f"{backbone} {where}", settings, partial(_flexvar, settings)))
            if backbone == "transformer":
                given = settings | {"loop": "plain", "repeats": min(settings["repeats"], PAIRS)}
                name = f"transformer {where}, beside the plain loop"
                found.append(Case(SUITE, name, given, partial(_beside_plain, given)))
    return found


def _grid(options: Options) -> Iterator[tuple[int, int, int, str]]:
    """Depth, pixels, batch and dtype."""
    if options.quick:
        yield 4, 128, 1, "fp32"
        if options.on_gpu:
            yield 4, 128, 1, "bf16"
        return
    if options.on_gpu:
        yield 16, 256, 1, "fp32"
        yield 16, 256, 8, "fp32"
        depths, sizes, batches = (12, 16, 20, 24, 30), (256, 512, 1024), (1, 8, 64)
        yield from ((d, p, b, "bf16") for p, d, b in product(sizes, depths, batches))
    else:
        yield 16, 256, 1, "fp32"
        yield 16, 256, 1, "bf16"
        yield 12, 512, 1, "bf16"
        yield 12, 1024, 1, "bf16"
        yield from ((12, 256, b, dtype) for b, dtype in product((1, 8), ("fp32", "bf16")))


def _repeats(options: Options, batch: int) -> int:
    if options.quick:
        return 5
    return (30 if batch == 1 else 10) if options.on_gpu else (9 if batch == 1 else 3)


def _flexvar(settings: dict[str, Any]) -> dict[str, Any]:
    pipe, layout, labels = generation.opened(settings)
    report = parity.check(pipe, layout, dtype=settings["dtype"])
    pipe.to(dtype=settings["dtype"])
    sampled = generation.drawn()
    with PeakMemory(pipe.device) as memory:
        latency = timed(
            lambda: generation.ours(pipe, labels, layout, sampled),
            pipe.device,
            repeats=settings["repeats"],
        )
    splits = [generation.split_of(pipe, labels, layout, sampled) for _ in range(SPLITS)]
    figures = {
        "latency": latency,
        "images_per_s": round(settings["batch"] / latency["median_s"], 4),
        "peak_memory_mib": memory.mib,
        "tokens": layout.tokens,
        "scales": len(layout),
        "parts_s": generation.median_parts(splits),
        "backbone_by_scale_s": {
            str(grid): _median([split.scales[step] for split in splits])
            for step, grid in enumerate(layout)
        },
        "parameters": sum(p.numel() for p in pipe.model.parameters()),
    }
    work = roofline.of_generation(
        settings["model"], layout, images=len(labels), dtype=settings["dtype"]
    )
    if work is not None:
        figures["work"] = {**work, "of": "latency"}
    return {**figures, "parity": report, "implementation": models.implementation(pipe)}


def _beside_plain(settings: dict[str, Any]) -> dict[str, Any]:
    """Both loops in turn, so that a machine that slows down slows both."""
    pipe, layout, labels = generation.opened(settings)
    plain = generation.PlainLoop.of(pipe)
    report = generation.check_loops(pipe, plain, labels, layout)
    pipe.to(dtype=settings["dtype"])
    sampled, spent = generation.drawn(), []

    def run_plain() -> None:
        spent.append(plain(labels, layout, dtype=settings["dtype"])[2])

    both = {"flexvar": lambda: generation.ours(pipe, labels, layout, sampled), "plain": run_plain}
    timings = {who: summary(s) for who, s in interleaved(both, settings["repeats"]).items()}
    figures: dict[str, Any] = {
        **timings,
        "ratio": round(timings["plain"]["median_s"] / timings["flexvar"]["median_s"], 3),
    }
    if pipe.device.type == "cpu":  # on a GPU the plain loop does not wait for its parts
        splits = [generation.split_of(pipe, labels, layout, sampled) for _ in range(SPLITS)]
        figures["parts_s"] = {
            "flexvar": generation.median_parts(splits),
            "plain": generation.median_parts(spent[1:]),
        }
    return {**figures, "parity": report, "implementation": models.implementation(pipe)}


def _median(values: list[float]) -> float:
    return round(statistics.median(values), 6)


def sections(rows: list[Row]) -> list[Section]:
    """All rows, the speed-up over the plain loop, time by scale, time and memory by size."""
    shown = shown_rows(rows)
    alone = [row for row in shown if row["settings"].get("loop") != "plain"]
    beside = [row for row in shown if row["settings"].get("loop") == "plain"]
    found = []
    if alone:
        text = (
            "Seconds from labels to pictures, all scales, guidance and decoding; medians, and the "
            "90th percentile. Parts are timed in runs of their own, in which each is waited for. "
            "Limit: what the counted work would take at the device's measured rates, and the share "
            "of that reached."
        )
        found.append(Section("Generation", text, tables=[_rows_table(alone)]))
    if beside:
        text = (
            "The same model in a loop written as research code is: concatenated caches, AdaLN "
            "at every step, a sort of the vocabulary, weights cast at each call. Both take the "
            "same likeliest tokens and draw the same picture in fp32 before either is timed; they "
            "take turns."
        )
        found.append(Section("Beside the plain loop", text, tables=[_plain_table(beside)]))
    return found + _plots(measured(alone))


def _plain_table(rows: list[Row]) -> Table:
    header = ("case", "flexvar ms", "plain loop ms", "plain / flexvar", "implementation")

    def cells(row: Row) -> list[object]:
        figures = row["figures"]
        return [
            *(milliseconds(figures[who]["median_s"]) for who in ("flexvar", "plain")),
            f"{figures['ratio']:.2f}",
            row.get("implementation") or "not said",
        ]

    return mixed_rows(header, rows, cells)


def _rows_table(rows: list[Row]) -> Table:
    header = (
        "case", "median ms", "p90 ms", "images/s", "peak MiB", "backbone", "sampling", "decoder",
        "limit", "implementation",
    )  # fmt: skip

    def cells(row: Row) -> list[object]:
        figures = row["figures"]
        parts = figures.get("parts_s", {})
        return [
            milliseconds(figures["latency"]["median_s"]),
            milliseconds(figures["latency"]["p90_s"]),
            f"{figures['images_per_s']:.3g}",
            f"{figures['peak_memory_mib']:,.0f}",
            *(milliseconds(parts.get(part)) for part in generation.PARTS),
            limit_cell(figures),
            row.get("implementation") or "not said",
        ]

    return mixed_rows(header, rows, cells)


def _plots(rows: list[Row]) -> list[Section]:
    found = []
    if scaled := [row for row in rows if row["settings"]["batch"] == 1][:6]:
        curves = {
            row["case"]: [
                (number + 1, 1e3 * seconds)
                for number, seconds in enumerate(row["figures"]["backbone_by_scale_s"].values())
            ]
            for row in scaled
        }
        picture = plots.lines(curves, "scale", "backbone, ms", log_x=False, log_y=False)
        found.append(
            Section(
                "Time by scale",
                "The backbone's share of each scale, both rows of guidance.",
                [("Backbone by scale", picture)],
            )
        )
    latency: dict[str, list[tuple[float, float]]] = {}
    memory: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        given = row["settings"]
        if given["batch"] != 1:
            continue
        name = row["case"].replace(f" {given['pixels']}px batch 1", "")
        latency.setdefault(name, []).append(
            (given["pixels"], 1e3 * row["figures"]["latency"]["median_s"])
        )
        memory.setdefault(name, []).append((given["pixels"], row["figures"]["peak_memory_mib"]))
    if any(len(points) > 1 for points in latency.values()):
        several = [name for name, points in latency.items() if len(points) > 1]
        found.append(
            Section(
                "Latency and memory against resolution",
                "Batch 1; both axes logarithmic.",
                [
                    (
                        "Latency",
                        plots.lines({n: latency[n] for n in several}, "pixels a side", "ms"),
                    ),
                    (
                        "Peak memory",
                        plots.lines({n: memory[n] for n in several}, "pixels a side", "MiB"),
                    ),
                ],
            )
        )
    return found
