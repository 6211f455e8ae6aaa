"""A backbone that is wrong gets a red row and no figure; a sound one joins by its name alone."""

from __future__ import annotations


def test_wrong_leaky_and_greedy_backbones_get_rows_without_figures(bench):
    names = ("wrong", "leaky", "greedy")
    chosen = [word for name in names for word in ("--backbone", name)]
    bench.run("growth", "--quick", "--filter", "grid 8 ", *chosen, code=1)
    rows = {row["settings"]["backbone"]: row for row in bench.rows}
    assert {name: row["status"] for name, row in rows.items()} == {
        "wrong": "red", "leaky": "red", "greedy": "failed",
    }  # fmt: skip
    assert not any("figures" in row for row in rows.values())
    assert rows["wrong"]["reason"].startswith("step equals forward:")
    assert rows["greedy"]["reason"].startswith("out of memory: CUDA out of memory.")
    page = bench("report", bench.out, "--out", bench.folder / "page").splitlines()[-1]
    assert page.endswith("index.html")
    text = (bench.folder / "page" / "index.html").read_text()
    assert "RED: step equals forward" in text
    assert "FAILED: out of memory" in text


def test_a_third_partys_backbone_is_measured_by_its_name(bench):
    bench.run("growth", "--quick", "--backbone", "mixer", "--filter", "grid 8 ")
    (row,) = bench.rows
    # Depth and width are asked for because its Config has them; nothing else is.
    assert row["settings"]["model"]["backbone"] == {"name": "mixer", "depth": 2, "width": 64}
    assert row["figures"]["whole"]["median_s"] > 0
    assert row["figures"]["steps"]["median_s"] > 0
    assert row["figures"]["work"]["flops"] > 0
    assert row["figures"]["limit"]["fraction"] > 0
    assert 0 <= row["parity"]["greatest"] <= row["parity"]["tolerance"]
    for suite in ("generate", "train"):
        said = bench("list", suite, "--quick", "--backbone", "mixer", "--device", "cpu")
        assert said.startswith("mixer d4")
