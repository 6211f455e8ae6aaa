"""What is measured on a busy machine says so, and whose rows a report shows is never in doubt."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.__main__ import report as report_command
from benchmarks.harness import load, record, report, roofline
from benchmarks.harness.cells import limit_cell, mark
from flexvar.errors import FlexvarError

ROW = {"suite": "gone", "case": "one", "settings": {}, "status": "ok", "figures": {"speed": 3}}


def busy_for(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="Linux counts the waiting")
def test_a_shared_cpu_is_seen() -> None:
    allowed = os.sched_getaffinity(0)
    one = {min(allowed)}
    os.sched_setaffinity(0, one)
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])  # on the same CPU
    try:
        with load.Load() as shared:
            busy_for(0.5)
    finally:
        other.kill()
        other.wait()
        os.sched_setaffinity(0, allowed)
    assert shared.found["waited"] > 0.1
    assert shared.found["busy"]
    assert "of its time waiting for a CPU" in load.told(shared.found)


def test_where_the_system_counts_no_waiting_the_load_average_decides(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(load, "PROC", tmp_path)
    for average, busy in ((99.0 * (os.cpu_count() or 1), True), (0.1, False)):
        monkeypatch.setattr(os, "getloadavg", lambda average=average: (average, 0.0, 0.0))
        with load.Load() as found:
            pass
        assert found.found == {"waited": None, "stolen": None, "average": average, "busy": busy}


def test_other_virtual_machines_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(load, "PROC", tmp_path)
    (tmp_path / "stat").write_text("cpu  10 0 10 70 0 0 0 10 0 0\ncpu0 1 1\n")
    with load.Load() as found:
        (tmp_path / "stat").write_text("cpu  50 0 10 90 0 0 0 50 0 0\ncpu0 1 1\n")
    assert found.found["stolen"] == 0.4
    assert found.found["busy"]


def test_a_report_marks_rows_of_a_busy_machine(tmp_path: Path) -> None:
    row = ROW | {"load": {"waited": 0.31, "stolen": 0.0, "average": 5.5, "busy": True}}
    assert mark(row) == " (busy machine)"
    assert mark(ROW) == ""
    quiet = ROW | {"case": "two", "load": {"waited": 0.01, "stolen": 0.0, "busy": False}}
    report.write({"a": [row, quiet]}, tmp_path)
    table = (tmp_path / "report.md").read_text().split("### On a busy machine")[1]
    assert "| one | 31 % of its time waiting for a CPU, load average 5.5 |" in table
    assert "two" not in table


def test_a_limit_that_a_row_is_above_is_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {"work": {"flops": 100, "bytes": 1, "of": "run"}, "run": {"median_s": 1.0}}
    answers = [{"flops": 50.0, "bytes": 9.0}, {"flops": 200.0, "bytes": 8.0}]
    monkeypatch.setattr(roofline, "rates", lambda device, dtype: answers.pop(0))
    limit = roofline.beside(figures, "cpu", "fp32")
    assert limit["fraction"] == 0.5
    assert limit["bytes_per_s"] == 9.0
    assert limit_cell({"limit": limit}) == "50 % of products"
    above = roofline.set_against(figures, {"flops": 50.0, "bytes": 9.0})
    assert limit_cell({"limit": above}) == "above the rate of products measured beside it"


def test_rows_of_a_checkout_are_none_of_gits() -> None:
    path = record.results_file()
    assert path.parent == record.ROWS
    done = subprocess.run(["git", "check-ignore", path], cwd=path.parents[2], capture_output=True)
    if done.returncode == 128:
        pytest.skip("no checkout")
    assert done.returncode == 0


def test_published_rows_are_reported_when_asked_for_and_labelled(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(record, "ROWS", tmp_path / "rows")
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    record.append(ROW, tmp_path / "results" / "a-cpu.jsonl")
    with pytest.raises(FlexvarError, match=r"Nothing was measured .* --published"):
        report_command(None, published=False, out=tmp_path / "out")
    record.append(ROW | {"figures": {"speed": 4}}, tmp_path / "rows" / "a-cpu.jsonl")
    report_command(None, published=False, out=tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "## a-cpu, measured here" in text
    assert "speed 3" not in text
    report_command(None, published=True, out=tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "## a-cpu, published with flexvar" in text
    assert "speed 3" in text
    assert "speed 4" in text


def test_files_of_one_name_stay_apart(tmp_path: Path) -> None:
    files = [tmp_path / folder / "rows.jsonl" for folder in "ab"]
    for number, file in enumerate(files):
        record.append(ROW | {"figures": {"speed": number}}, file)
    report_command(files, published=False, out=tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "speed 0" in text
    assert "speed 1" in text
