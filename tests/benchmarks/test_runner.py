"""The runner: every case leaves a row, and a second run goes on where the first one stopped."""

from __future__ import annotations

import pytest

from benchmarks.harness import record
from benchmarks.harness.runner import choose
from benchmarks.harness.suite import Case
from flexvar.errors import FlexvarError


def test_every_end_of_a_case_is_a_row_with_its_reason(bench):
    said = bench.run("mine", "--jobs", "3", code=1)
    rows = {row["case"]: row for row in bench.rows}
    assert len(rows) == 7

    sound = rows["sound"]
    assert sound["status"] == "ok"
    assert sound["implementation"] == "mm"
    assert sound["figures"]["products"]["repeats"] == 15
    assert {"low_s", "high_s", "p90_s", "first_call_s"} <= sound["figures"]["products"].keys()
    assert sound["seed"] == 0
    assert sound["time"]
    assert {"cpu", "threads", "torch", "flexvar", "commit"} <= sound["machine"].keys()
    assert {"waited", "stolen", "average", "busy"} == sound["load"].keys()
    limit = sound["figures"]["limit"]
    assert limit["floor_s"] > 0
    assert 0 < limit["fraction"] < 1
    assert limit["bound"] in ("products", "memory")

    reasons = {name: row["reason"] for name, row in rows.items() if row["status"] != "ok"}
    assert {name for name, row in rows.items() if row["status"] == "red"} == {"red"}
    assert rows["red"]["parity"] == {"greatest": 2.0}
    assert reasons["red"] == "it is not what it says"
    assert reasons["memory"].startswith("out of memory")
    assert "killed by SIGKILL (the system does so when memory runs out)" in reasons["kill"]
    assert reasons["leave"] == "its process ended with code 3: last words"
    assert "work is incomplete" in reasons["incomplete"]
    assert "nowhere" in reasons["incomplete"]
    for name in ("red", "memory", "kill", "leave"):
        assert "figures" not in rows[name]
    assert "red: RED: it is not what it says" in said


def test_a_case_that_takes_too_long_is_stopped_and_gets_its_row(bench):
    bench.run("mine", "--seed", "9", "--timeout", "3", code=1)
    (row,) = bench.rows
    assert row["reason"] == "took longer than 3 s and was stopped"
    assert row["status"] == "failed"
    assert "figures" not in row


def test_a_second_run_measures_what_has_no_row_of_these_settings_and_commit(bench):
    bench.run("mine", "--filter", "sound")
    said = bench.run("mine", "--filter", "so")
    assert "1 of 1 cases have their row of this commit already" in said
    assert len(bench.rows) == 1
    bench.run("mine", "--filter", "sound", "--again")
    bench.run("mine", "--filter", "sound", "--quick")  # other settings
    assert len(bench.rows) == 3
    old = bench.rows[-1]
    old["machine"]["commit"] = "0000000"
    bench.out.write_text("")
    record.append(old, bench.out)
    bench.run("mine", "--filter", "sound", "--quick")  # another commit
    assert len(bench.rows) == 2


def test_a_red_row_is_not_forgotten_by_the_run_that_goes_on(bench):
    bench.run("mine", "--filter", "red", code=1)
    assert "1 of them red or failed" in bench.run("mine", "--filter", "red", code=1)
    assert len(bench.rows) == 1


def test_the_budget_stops_starting_cases_and_says_how_to_go_on(bench):
    said = bench.run("mine", "--budget", "0", "--filter", "so")
    assert "The budget of 0 s is spent; 1 of 1 cases are left. The same command goes on" in said
    assert not bench.out.exists()


def test_a_line_that_was_cut_off_costs_no_other_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    row = {"suite": "s", "case": "c", "settings": {}, "figures": {"a": 1}}
    record.append(row, path)
    with path.open("a") as file:
        file.write('{"suite": "s", "ca')
    record.append(row | {"case": "d"}, path)
    assert [one["case"] for one in record.read(path)] == ["c", "d"]


def test_a_users_mistakes_are_messages(bench, tmp_path):
    said = bench.run("generat", code=2)
    assert (
        "Unknown suite 'generat'. Did you mean 'generate'? Suites: generate, generate-cpu" in said
    )
    assert "No case contains 'nothing'. Cases: sound; red" in bench.run(
        "mine", "--filter", "nothing", code=2
    )
    assert "Unknown backbone 'mixr'. Did you mean 'mixer'?" in bench.run(
        "generate", "--backbone", "mixr", code=2
    )
    assert "is a directory" in bench("run", "mine", "--out", tmp_path, code=2)
    assert "device: gpu cannot be used here" in bench.run("mine", "--device", "gpu", code=2)
    (tmp_path / "text.jsonl").write_text("no rows\n")
    said = bench("compare", tmp_path / "text.jsonl", tmp_path / "text.jsonl", code=2)
    assert "holds no benchmark rows" in said
    assert "Cannot read results" in bench("report", tmp_path / "absent.jsonl", code=2)


def test_two_cases_of_one_name_are_refused():
    case = Case("s", "twice", {}, dict)
    with pytest.raises(FlexvarError, match="two cases of one name: twice"):
        choose({"s": [case, case]}, "")


def test_all_is_every_suite_but_the_ablation_and_leaves_out_what_cannot_be_loaded(bench):
    said = bench.run("all", "--filter", "sound")
    assert "half is left out: Suite 'half'" in said
    assert [row["case"] for row in bench.rows] == ["sound"]
    # Several by name: a case in any of them is enough.
    said = bench.run("tokenizer", "mine", "mine", "--quick", "--filter", "second")
    assert [row["case"] for row in bench.rows] == ["sound", "second"]
    said = bench.run("all", "--filter", "scaling", code=2)
    assert "No case contains 'scaling'" in said


def test_a_plugins_suite_is_listed_run_and_checked(bench):
    said = " ".join(bench("list").split())
    assert "mine A plugin's own" in said
    assert "half cannot be loaded: Suite 'half': bench_plugin_manifest lacks SUMMARY" in said
    assert bench("list", "mine").splitlines()[:2] == ["sound", "red"]
    assert "lacks SUMMARY, cases, sections" in bench.run("half", code=2)
