"""One 256 px image of FlexVAR-d16 on a CPU: flexvar against the plain loop, taking turns."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.harness import models
from benchmarks.harness.cells import Row, milliseconds, mixed_rows, shown_rows
from benchmarks.harness.measure import interleaved, summary
from benchmarks.harness.suite import Case, Options, Section
from benchmarks.suites import generation

SUITE = "generate-cpu"
SUMMARY = "One 256 px image of d16 on a CPU, flexvar and the plain loop taking turns"
PIXELS = 256
SPLITS = 3


def cases(options: Options) -> list[Case]:
    """The transformer in fp32 and bf16; d4 if quick."""
    depth, repeats = (4, 3) if options.quick else (16, 7)
    found = []
    for dtype in ("fp32", "bf16"):
        settings = options.settings(
            model=models.config(models.backbone_spec("transformer", depth)),
            pixels=PIXELS,
            batch=1,
            dtype=dtype,
            device="cpu",
            repeats=repeats,
            **generation.SAMPLING,
            guidance_schedule=generation.GUIDANCE_SCHEDULE,
        )
        name = f"d{depth} {PIXELS} px batch 1 {dtype}"
        found.append(Case(SUITE, name, settings, partial(_run, settings)))
    return found


def _run(settings: dict[str, Any]) -> dict[str, Any]:
    pipe = models.pipeline(settings["model"], seed=settings["seed"], device="cpu")
    layout, labels = models.layout_of(PIXELS), [207]
    plain = generation.PlainLoop.of(pipe)
    report = generation.check_loops(pipe, plain, labels, layout)
    pipe.to(dtype=settings["dtype"])
    sampled = generation.drawn()
    spent: list[Any] = []

    def run_plain() -> None:
        spent.append(plain(labels, layout, dtype=settings["dtype"])[2])

    both = {"flexvar": lambda: generation.ours(pipe, labels, layout, sampled), "plain": run_plain}
    timings = {who: summary(s) for who, s in interleaved(both, settings["repeats"]).items()}
    splits = [generation.split_of(pipe, labels, layout, sampled) for _ in range(SPLITS)]
    return {
        **timings,
        "ratio": round(timings["plain"]["median_s"] / timings["flexvar"]["median_s"], 3),
        "parts_s": {
            "flexvar": generation.median_parts(splits),
            "plain": generation.median_parts(spent[1:]),
        },
        "parity": report,
        "implementation": models.implementation(pipe),
    }


def sections(rows: list[Row]) -> list[Section]:
    """Both loops of each row, and their ratio."""
    header = ("case", "flexvar ms", "plain loop ms", "plain / flexvar", "implementation")

    def cells(row: Row) -> list[object]:
        figures = row["figures"]
        return [
            *(milliseconds(figures[who]["median_s"]) for who in ("flexvar", "plain")),
            f"{figures['ratio']:.2f}",
            row.get("implementation") or "not said",
        ]

    text = (
        "One image of random weights at 256 px, ten scales. Both loops take the same likeliest "
        "tokens and draw the same picture in fp32 before either is timed; they take turns, so "
        "that a machine that slows down slows both."
    )
    table = mixed_rows(header, shown_rows(rows), cells)
    return [Section("One image on a CPU, beside the plain loop", text, tables=[table])]
