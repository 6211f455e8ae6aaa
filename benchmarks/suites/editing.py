"""A trained model's zero-shot tasks, on pictures it was and was not trained on.

The bundled one's unless ``--model`` and ``--data`` name another.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.harness import record
from benchmarks.harness.cells import Row, mark, measured, shown_rows, why
from benchmarks.harness.suite import Case, Options, Section, Table
from benchmarks.suites import editing_tasks as tasks

SUITE = "editing"
SUMMARY = "Zero-shot tasks of a trained model, against a wrong class, bicubic, and chance"
COUNT, QUICK_COUNT = 48, 4  # pictures per figure


def cases(options: Options) -> list[Case]:
    """A case per task, of the model and the set it was trained on.

    Pictures of the bundled model go to ``benchmarks/rows``, of any other to ``out/editing``; of
    a quick run nowhere.
    """
    model, data = options.model, options.data
    bundled = model == Options().model
    folder = None if options.quick else record.ROWS if bundled else Path("out/editing")
    count = QUICK_COUNT if options.quick else COUNT
    settings = {"model": model, "data": data, "pictures": count}
    settings |= {"device": options.device, "quick": options.quick}
    return [
        Case(
            SUITE,
            name,
            settings,
            partial(tasks.measure, name, model, data, count, folder, options.device),
        )
        for name in tasks.TASKS
    ]


def sections(rows: list[Row]) -> list[Section]:
    """The figures of each task, and the sheets that a whole run left behind."""
    shown = shown_rows(rows)
    body = [
        [row["case"] + mark(row), name, told(value)]
        for row in measured(shown)
        for name, value in row["figures"].items()
    ]
    body += [[row["case"], why(row), ""] for row in shown if record.status(row) != "ok"]
    pictures = []
    if measured(shown):
        folder = Path(shown[-1].get("folder", record.RESULTS))
        for path in sorted(folder.glob("editing-*.png")):
            with Image.open(path) as image:
                pictures.append((path.stem.replace("-", " "), image.convert("RGB")))
    text = (
        "A model that was only trained to generate, edited with: beside every figure stands the "
        "plain way - a wrong class, the mean colour, bicubic enlarging, chance."
    )
    return [Section("Zero-shot tasks", text, pictures, [Table(("case", "figure", "value"), body)])]


def told(value: Any) -> str:
    """A figure as text."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {told(one)}" for name, one in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)
