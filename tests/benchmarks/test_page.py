"""The report: one page without a second file, every row on it, sound or not."""

from __future__ import annotations

import json
import re

import pytest
from PIL import Image

pytest.importorskip("matplotlib")

from benchmarks import suites
from benchmarks.harness import record, report
from benchmarks.harness.suite import Options
from benchmarks.suites import growth

MACHINE = {"cpu": "A CPU", "cores": 2, "threads": 1, "torch": "2", "commit": "abc1234"}


def timing(median):
    return {
        "median_s": median, "low_s": median, "high_s": median, "p90_s": median,
        "first_call_s": median, "repeats": 3,
    }  # fmt: skip


def rows_of_growth():
    """Attention grows by the square of the cells, the scan by the cells: they cross."""
    rows = []
    for case in growth.cases(Options()):
        side, name = case.settings["side"], case.settings["backbone"]
        seconds = 512 * side**2 if name == "mamba" else side**4
        figures = {
            "whole": timing(seconds), "steps": timing(2 * seconds), "whole_peak_mib": 10.0 * side,
            "steps_peak_mib": 12.0 * side, "tokens": side, "backbone_parameters": 1_000_000,
            "state_mib": 0.1 * side,
        }  # fmt: skip
        rows.append({
            "suite": "growth", "case": case.name, "settings": dict(case.settings),
            "status": "ok", "figures": figures, "machine": MACHINE, "implementation": "x",
        })  # fmt: skip
    rows[-1] |= {"status": "failed", "reason": "out of memory: <no more>"}
    del rows[-1]["figures"]
    return rows


def test_the_page_stands_alone_and_shows_what_failed(tmp_path):
    rows = rows_of_growth()
    gone = {"suite": "gone", "case": "of a plugin", "settings": {}, "status": "ok",
            "figures": {"speed": 3}, "machine": MACHINE}  # fmt: skip
    page = report.write({"a-cpu": [*rows, gone]}, tmp_path / "out")
    text = page.read_text()
    assert text.count("src='data:image/png;base64,") == 1
    assert not re.search(r"(src|href)='(?!data:)", text)
    assert "FAILED: out of memory: &lt;no more&gt;" in text
    assert "All at once they cross at 23 cells a side (362 px); at 64" in text
    # A suite that is no longer there shows its rows plainly, and stops no other.
    assert "The suite could not show its rows" in text
    assert "speed 3" in text
    table = page.with_name("report.md").read_text()
    (picture,) = re.findall(r"!\[.+\]\((.+)\)", table)
    assert Image.open(page.with_name(picture)).width > 400
    assert "FAILED: out of memory: <no more>" in table
    assert "| transformer d4 width 256 grid 16 (256px) fp32 |" in table


def test_the_newest_row_of_a_case_is_shown(tmp_path):
    first = rows_of_growth()[0]
    second = json.loads(json.dumps(first))
    second["figures"]["whole"] = timing(7.777)
    text = report.write({"m": [first, second]}, tmp_path).read_text()
    assert "7,777" in text
    assert text.count("grid 16 (256px)") == 1


def test_every_suite_shows_rows_that_are_all_red():
    for name in suites.SUITES:
        module = suites.load(name)
        rows = [
            {"suite": name, "case": case.name, "settings": dict(case.settings), "status": "red",
             "reason": "it differs"}
            for case in module.cases(Options(quick=True))
        ]  # fmt: skip
        shown = [line for _, found in report.by_suite(record.latest(rows)) for section in found
                 for table in section.tables for line in table.body]  # fmt: skip
        for row in rows:
            assert any(row["case"] in map(str, line) for line in shown), row["case"]


def test_curves_cross_where_they_meet():
    square, straight = [(n, n**2) for n in (8, 16, 32)], [(n, 20 * n) for n in (8, 16, 32)]
    assert growth.crossover(square, straight) == pytest.approx(20)
    assert growth.crossover(square, [(n, 99 * n) for n in (8, 16, 32)]) is None


def test_mamba_gets_the_parameters_of_the_transformer():
    count = growth._parameters
    from benchmarks.harness.models import backbone_spec

    ratio = growth.matched(2, 64)
    ours = count(backbone_spec("transformer", 2, width=64))
    theirs = count(backbone_spec("mamba", 2, width=64, mlp_ratio=ratio))
    assert abs(ours - theirs) / ours < 0.01


def test_no_crossing_is_claimed_within_the_spread():
    rows = rows_of_growth()[:-1]
    for row in rows:
        for way in ("whole", "steps"):
            row["figures"][way] |= {"low_s": 1.0, "high_s": 1e9}
    (section,) = growth.sections(rows)
    assert "All at once no crossing within these sizes is beyond the spread" in section.text
    assert "which is within their spread" in section.text
