"""Generation: latency and throughput, where the time goes, peak memory, beside the plain loop."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from functools import partial
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
from benchmarks.harness.measure import PeakMemory, timed
from benchmarks.harness.suite import Case, Options, Section, Table
from benchmarks.reference.plain_loop import Spent
from benchmarks.suites import generation

SUITE = "generate"
SUMMARY = "Latency, throughput and memory of generation, by part and scale, beside the plain loop"
SPLITS = 3


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
            if backbone == "transformer" and dtype != "fp16":
                given = settings | {"loop": "plain"}
                found.append(
                    Case(SUITE, f"plain loop, transformer {where}", given, partial(_plain, given))
                )
    return found


def _grid(options: Options) -> Iterator[tuple[int, int, int, str]]:
    """Depth, pixels, batch and dtype."""
    if options.quick:
        yield 4, 128, 1, "fp32"
        if options.on_gpu:
            yield 4, 128, 1, "bf16"
        return
    if options.on_gpu:
        depths, sizes, batches, dtypes = (
            (12, 16, 20, 24, 30),
            (256, 512, 1024),
            (1, 8, 64),
            ("bf16",),
        )
        yield 16, 256, 1, "fp32"
        yield 16, 256, 8, "fp32"
    else:
        depths, sizes, batches, dtypes = (12,), (256,), (1, 8), ("fp32", "bf16")
        yield 16, 256, 1, "fp32"
        yield 16, 256, 1, "bf16"
        yield 12, 512, 1, "bf16"
        yield 12, 1024, 1, "bf16"
    for pixels in sizes:
        for depth in depths:
            for batch in batches:
                for dtype in dtypes:
                    yield depth, pixels, batch, dtype


def _repeats(options: Options, batch: int) -> int:
    if options.quick:
        return 5
    return (30 if batch == 1 else 10) if options.on_gpu else (9 if batch == 1 else 3)


def _flexvar(settings: dict[str, Any]) -> dict[str, Any]:
    pipe, layout, labels = _opened(settings)
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
    figures = _figures(settings, latency, memory.mib, layout)
    figures["parts_s"] = generation.median_parts(splits)
    figures["backbone_by_scale_s"] = {
        str(grid): _median([split.scales[step] for split in splits])
        for step, grid in enumerate(layout)
    }
    figures["parameters"] = sum(p.numel() for p in pipe.model.parameters())
    work = roofline.of_generation(
        settings["model"], layout, images=len(labels), dtype=settings["dtype"]
    )
    if work is not None:
        figures["work"] = {**work, "of": "latency"}
    return {**figures, "parity": report, "implementation": models.implementation(pipe)}


def _plain(settings: dict[str, Any]) -> dict[str, Any]:
    pipe, layout, labels = _opened(settings)
    plain = generation.PlainLoop.of(pipe)
    report = generation.check_loops(pipe, plain, labels[:1], layout)
    device, pipe = pipe.device, plain.pipe  # flexvar's own weights are no part of the memory
    spents: list[Spent] = []

    def run() -> None:
        spents.append(plain(labels, layout, dtype=settings["dtype"])[2])

    with PeakMemory(device) as memory:
        latency = timed(run, device, repeats=settings["repeats"])
    figures = _figures(settings, latency, memory.mib, layout)
    if device.type == "cpu":  # on a GPU it does not wait for its parts
        figures["parts_s"] = generation.median_parts(spents[1:])
    return {**figures, "parity": report, "implementation": "plain loop, torch"}


def _opened(settings: dict[str, Any]) -> tuple[Any, Any, list[int]]:
    pipe = models.pipeline(settings["model"], seed=settings["seed"], device=settings["device"])
    layout = models.layout_of(settings["pixels"], pipe.tokenizer.space.stride)
    return pipe, layout, [207 + number for number in range(settings["batch"])]


def _figures(
    settings: dict[str, Any], latency: dict[str, float], mib: float, layout: Any
) -> dict[str, Any]:
    return {
        "latency": latency,
        "images_per_s": round(settings["batch"] / latency["median_s"], 4),
        "peak_memory_mib": mib,
        "tokens": layout.tokens,
        "scales": len(layout),
    }


def _median(values: list[float]) -> float:
    return round(statistics.median(values), 6)


def sections(rows: list[Row]) -> list[Section]:
    """All rows, the speed-up over the plain loop, time by scale, time and memory by size."""
    shown = shown_rows(rows)
    found = [
        Section(
            "Generation",
            "Seconds from labels to pictures, all scales, guidance and decoding; medians, and the "
            "90th percentile. Parts are timed in runs of their own, in which each is waited for. "
            "Limit: what the counted work would take at the device's measured rates, and the share "
            "of that reached.",
            tables=[_rows_table(shown)],
        )
    ]
    if body := list(_against_plain(measured(shown))):
        found.append(
            Section(
                "Against the plain loop",
                "The same model in a loop written as research code is: concatenated caches, AdaLN "
                "at every step, a sort of the vocabulary, weights cast at each call. Both draw the "
                "same picture in fp32 before either is timed.",
                tables=[Table(("case", "flexvar", "plain loop", "plain / flexvar"), body)],
            )
        )
    found += _plots(measured(shown))
    return found


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


def _against_plain(rows: list[Row]) -> Iterator[list[object]]:
    by_name = {row["case"]: row["figures"]["latency"]["median_s"] for row in rows}
    for name, own in by_name.items():
        if (plain := by_name.get(f"plain loop, {name}")) is not None:
            yield [name, f"{own * 1e3:,.1f} ms", f"{plain * 1e3:,.1f} ms", f"{plain / own:.2f}"]


def _plots(rows: list[Row]) -> list[Section]:
    found = []
    own = [row for row in rows if "loop" not in row["settings"]]
    if scaled := [row for row in own if row["settings"]["batch"] == 1][:6]:
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
