"""Two runs beside each other: a change is one beyond the spread of both, else there is none."""

from __future__ import annotations

import pytest

from benchmarks.harness.compare import compare, judge
from benchmarks.harness.measure import summary


def timing(median, half_spread=0.05, yardstick=0.01):
    low, high = median * (1 - half_spread), median * (1 + half_spread)
    return {"median_s": median, "low_s": low, "high_s": high, "yardstick_s": yardstick}


def row(figures, case="c", **more):
    settings = more.pop("settings", {"depth": 1})
    return {"suite": "s", "case": case, "settings": settings, "figures": figures, **more}


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (timing(1), timing(1), "no change"),
        (timing(1), timing(1.3), "slower"),
        (timing(1.3), timing(1), "faster"),
        # The quartiles overlap, however far the medians are apart.
        (timing(1, 0.3), timing(1.3, 0.3), "no change"),
        # Apart, but by less than the least change.
        (timing(1, 0.01), timing(1.05, 0.01), "no change"),
        # The fixed product was as much slower: it was the machine.
        (timing(1), timing(1.5, yardstick=0.015), "no change"),
        (timing(1), timing(2, yardstick=0.015), "slower"),
    ],
)
def test_the_rule(before, after, verdict):
    assert judge(before, after, 0.1) == verdict


def test_rows_are_matched_by_suite_case_and_settings_and_the_newest_counts():
    old = [row({"a": timing(9)}), row({"a": timing(1), "deep": {"b": timing(2)}})]
    new = [
        row({"a": timing(1.5), "deep": {"b": timing(2)}}),
        row({"a": timing(50)}, settings={"depth": 2}),
    ]
    found = compare(old, new)
    assert [(one.timing, one.verdict) for one in found.changes] == [
        ("a", "slower"), ("deep.b", "no change"),
    ]  # fmt: skip
    assert found.changes[0].ratio == pytest.approx(1.5)
    assert found.worse
    assert any("1 rows are in the second run alone" in note for note in found.notes)


def test_a_figure_that_turned_red_is_lost_and_counts_as_worse():
    red = row({}, status="red", reason="not the same numbers")
    found = compare([row({"a": timing(1)})], [red])
    assert found.worse
    assert found.broken == ["s: c: red: not the same numbers"]
    assert not compare([red], [row({"a": timing(1)})]).worse


def test_what_only_the_load_explains_is_said():
    found = compare([row({"a": timing(1)})], [row({"a": timing(1.5, yardstick=0.015)})])
    assert not found.worse
    assert "1 of the timings counted as no change differ" in found.notes[0]
    assert not compare([row({"a": timing(1)})], [row({"a": timing(1)})]).notes


def test_summary_is_of_the_sorted_times():
    found = summary([5.0, 1.0, 2.0, 4.0, 3.0])
    assert (found["low_s"], found["median_s"], found["high_s"], found["p90_s"]) == (2, 3, 4, 5)


def test_the_same_commit_twice_is_no_change_and_a_slowed_one_is_slower(bench):
    files = [bench.folder / name for name in ("a.jsonl", "b.jsonl", "c.jsonl")]
    for path, count in zip(files, (1, 1, 8), strict=True):
        bench("run", "mine", "--filter", "sound", "--out", path, BENCH_PLUGIN_PRODUCTS=str(count))
    assert "1 timings: 0 slower, 0 faster, 1 no change" in bench("compare", *files[:2])
    said = bench("compare", files[0], files[2], code=1)
    assert said.startswith("slower ")
    assert "mine: sound, products" in said
    assert "1 timings: 0 slower, 1 faster, 0 no change" in bench("compare", files[2], files[0])
