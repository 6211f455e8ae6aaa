"""What suites share to show their rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.harness import record
from benchmarks.harness.record import Row
from benchmarks.harness.suite import Table

__all__ = ["Row", "limit_cell", "load_free", "measured", "milliseconds", "mixed_rows", "shown_rows"]


def shown_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows of a whole run; of quick ones only if there are no others."""
    whole = [row for row in rows if not row["settings"].get("quick")]
    return list(whole or rows)


def measured(rows: Sequence[Row]) -> list[Row]:
    """The rows with figures."""
    return [row for row in rows if record.status(row) == "ok"]


def mixed_rows(
    header: Sequence[str], rows: Sequence[Row], cells: Callable[[Row], Sequence[object]]
) -> Table:
    """A line per row, its name first; a red or failed one says so and why instead of figures."""
    body: list[Sequence[object]] = []
    for row in rows:
        if record.status(row) == "ok":
            body.append([row["case"] + mark(row), *cells(row)])
        else:
            body.append([row["case"], why(row), *[""] * (len(header) - 2)])
    return Table(header, body)


def mark(row: Row) -> str:
    """What stands behind the name of a row that a busy machine took."""
    return " (busy machine)" if row.get("load", {}).get("busy") else ""


def why(row: Mapping[str, Any]) -> str:
    """``RED: reason`` or ``FAILED: reason``."""
    word = "RED" if record.status(row) == "red" else "FAILED"
    return f"{word}: {row.get('reason') or row.get('error') or 'no reason recorded'}"


def load_free(timing: dict[str, Any], which: str = "median_s") -> float:
    """A time over that of the fixed product that took turns with it.

    Rows are of different processes, minutes apart; the machine may be busier in one of them.
    """
    return float(timing[which] / timing.get("yardstick_s", 1.0))


def milliseconds(seconds: float | None) -> str:
    """Milliseconds to three digits, or nothing."""
    if seconds is None:
        return ""
    value = 1e3 * seconds
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def limit_cell(figures: dict[str, Any]) -> str:
    """The share of the device's limit that a row reached, and what bounds it."""
    limit = figures.get("limit")
    if limit is None:
        return "not counted"
    if limit["fraction"] > 1:
        return f"above the rate of {limit['bound']} measured beside it"
    return f"{100 * limit['fraction']:.0f} % of {limit['bound']}"
