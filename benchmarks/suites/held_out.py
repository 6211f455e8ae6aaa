"""What the bundled models make of pictures they were not trained on."""

from __future__ import annotations

from functools import partial
from typing import Any

from benchmarks.harness import models, parity
from benchmarks.harness.cells import Row, measured, mixed_rows, shown_rows
from benchmarks.harness.suite import Case, Options, Section, Table
from flexvar import Pipeline
from flexvar.data import DataConfig, open_data, ordered_batches
from flexvar.training.figures import model_figures

SUITE = "held-out"
SUMMARY = "Cross-entropy and accuracy of the bundled models on held-out crops, by scale"
MODELS = ("photos", "photos-mamba")
COUNT, QUICK_COUNT = 65, 4  # pictures; the set has 65


def cases(options: Options) -> list[Case]:
    """A case per bundled model, or the one that was named."""
    names = MODELS if options.model == Options().model else (options.model,)
    found = []
    for name in names:
        settings = options.settings(
            model=name, data=options.data, pictures=QUICK_COUNT if options.quick else COUNT
        )
        found.append(Case(SUITE, f"{name}, {options.data}", settings, partial(_run, settings)))
    return found


def _run(settings: dict[str, Any]) -> dict[str, Any]:
    pipe = Pipeline.from_pretrained(settings["model"], device=settings["device"])
    layout = pipe.layout(warn=False)
    report = parity.check(pipe, layout)
    held_out = open_data(DataConfig(source=settings["data"], size=pipe.size), "val")
    batches = (
        (batch.images_B3HW.to(pipe.device), pipe.collate(batch.labels_B.tolist()), layout)
        for batch in ordered_batches(held_out, batch_size=16, limit=settings["pictures"])
    )
    figures = model_figures(pipe, batches)
    return {
        "loss": round(figures["loss"], 4),
        "accuracy": round(figures["accuracy"], 4),
        **{
            f"{name}_by_scale": {str(grid): round(figures[f"{name}/{grid}"], 4) for grid in layout}
            for name in ("loss", "accuracy")
        },
        "parameters": sum(p.numel() for p in pipe.model.parameters()),
        "parity": report,
        "implementation": models.implementation(pipe),
    }


def sections(rows: list[Row]) -> list[Section]:
    """A line per model, and one per scale of each."""
    shown = shown_rows(rows)

    def cells(row: Row) -> list[object]:
        figures = row["figures"]
        return [
            f"{figures['parameters'] / 1e6:.2f} M",
            f"{figures['loss']:.3f}",
            f"{100 * figures['accuracy']:.0f} %",
        ]

    tables = [mixed_rows(("case", "parameters", "nats a token", "right"), shown, cells)]
    for row in measured(shown):
        losses, right = (row["figures"][f"{n}_by_scale"] for n in ("loss", "accuracy"))
        body = [
            (grid, f"{loss:.2f}", f"{100 * right[grid]:.0f} %") for grid, loss in losses.items()
        ]
        tables.append(Table((row["case"], "nats a token", "right"), body))
    text = (
        "True tokens of held-out crops, each scale given the true coarser ones. Right: how often "
        "the likeliest token is the true one."
    )
    return [Section("Held-out tokens", text, tables=tables)]
