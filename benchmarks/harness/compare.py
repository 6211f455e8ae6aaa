"""Two runs, row by row: what got slower or faster beyond the spread of both.

The rule. A timing is slower if its interquartile range lies wholly above that of the run before,
and its median is more than 10 % (``least``) above, both as measured and after division by the
yardstick - a fixed matrix product that took turns with it, so that a machine that was busier the
second time is not taken for slower code. Faster likewise. Anything else is no change.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.harness import record
from benchmarks.harness.measure import is_timing
from benchmarks.harness.record import Row


@dataclass(frozen=True, slots=True)
class Change:
    """One timing in both runs. ratio: of the medians, after over before."""

    case: str
    timing: str
    before_s: float
    after_s: float
    ratio: float
    verdict: str


@dataclass(slots=True)
class Comparison:
    """All changes, what cannot be compared, and rows that were sound and no longer are.

    explained: timings that differ beyond their spread but no more than the machine's load does.
    """

    changes: list[Change] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    explained: int = 0

    @property
    def worse(self) -> bool:
        """Whether anything is slower, or lost its figure."""
        return bool(self.broken) or any(one.verdict == "slower" for one in self.changes)

    def lines(self) -> Iterator[str]:
        """What to print."""
        for one in self.changes:
            yield (
                f"{one.verdict:9}  {one.ratio:5.2f}x  {1e3 * one.before_s:9.1f} -> "
                f"{1e3 * one.after_s:9.1f} ms  {one.case}, {one.timing}"
            )
        yield from (f"lost       {text}" for text in self.broken)
        yield from self.notes
        counts = {v: sum(one.verdict == v for one in self.changes) for v in ("slower", "faster")}
        same = len(self.changes) - sum(counts.values())
        yield (
            f"{len(self.changes)} timings: {counts['slower']} slower, {counts['faster']} faster, "
            f"{same} no change" + (f", {len(self.broken)} lost" if self.broken else "")
        )


def compare(before: Iterable[Row], after: Iterable[Row], *, least: float = 0.1) -> Comparison:
    """The newest rows of both, matched by suite, case and settings."""
    old, new = ({record.key(row): row for row in record.latest(rows)} for rows in (before, after))
    result = Comparison()
    for key, row in old.items():
        other = new.get(key)
        if other is None or record.status(row) != "ok":
            continue
        name = f"{row['suite']}: {row['case']}"
        if record.status(other) != "ok":
            result.broken.append(f"{name}: {record.status(other)}: {other.get('reason')}")
            continue
        found = dict(timings(other["figures"]))
        for timing, a in timings(row["figures"]):
            if timing in found:
                b = found[timing]
                ratio = b["median_s"] / a["median_s"] if a["median_s"] else 1.0
                verdict = judge(a, b, least)
                if verdict == "no change" and judge(_loadless(a), _loadless(b), least) != verdict:
                    result.explained += 1
                result.changes.append(
                    Change(name, timing, a["median_s"], b["median_s"], ratio, verdict)
                )
    if result.explained:
        result.notes.append(
            f"{result.explained} of the timings counted as no change differ, but no more than the "
            "fixed product beside them did: the machine was busier in one run. A change may hide "
            "behind that; measure again on a quiet machine to be sure."
        )
    for which, here, there in (("first", old, new), ("second", new, old)):
        if alone := [key for key in here if key not in there]:
            result.notes.append(
                f"{len(alone)} rows are in the {which} run alone (or have other settings)."
            )
    machines = [{_machine(row) for row in rows.values()} for rows in (old, new)]
    if machines[0] and machines[1] and machines[0] != machines[1]:
        result.notes.append("The runs are of different machines, threads or torch versions.")
    return result


def judge(before: Mapping[str, Any], after: Mapping[str, Any], least: float) -> str:
    """``slower``, ``faster`` or ``no change``, by the rule above."""
    if _beyond(before, after, least):
        return "slower"
    return "faster" if _beyond(after, before, least) else "no change"


def _loadless(timing: Mapping[str, Any]) -> dict[str, Any]:
    """A timing as if there had been no yardstick beside it."""
    return {name: value for name, value in timing.items() if name != "yardstick_s"}


def _beyond(low: Mapping[str, Any], high: Mapping[str, Any], least: float) -> bool:
    """Whether the second timing is more than the first beyond spread, least change and load."""
    if not high["low_s"] > low["high_s"]:
        return False
    if not high["median_s"] > low["median_s"] * (1 + least):
        return False
    a, b = low.get("yardstick_s"), high.get("yardstick_s")
    if not a or not b:
        return True
    return bool(high["median_s"] / b > low["median_s"] / a * (1 + least))


def timings(figures: Any, path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every timing in a row's figures, by its path."""
    if is_timing(figures):
        yield path, figures
    elif isinstance(figures, Mapping):
        for name, value in figures.items():
            yield from timings(value, f"{path}.{name}" if path else str(name))


def _machine(row: Row) -> tuple[Any, ...]:
    info = row.get("machine", {})
    return tuple(info.get(name) for name in ("cpu", "gpu", "cores", "threads", "torch"))
