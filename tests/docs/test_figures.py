"""Figures in README and docs are those of their rows, and none is without one."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("figures", ROOT / "docs" / "reference" / "figures.py")
assert SPEC is not None
assert SPEC.loader is not None
figures = importlib.util.module_from_spec(SPEC)
import sys  # noqa: E402

sys.modules["figures"] = figures
SPEC.loader.exec_module(figures)

PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]


@pytest.fixture(scope="module")
def statements():
    return figures.statements()


def test_what_a_page_says_is_its_rows_figure_rounded(statements):
    texts = {page: figures.prose((ROOT / page).read_text("utf-8")) for page in PAGES}
    wrong = [one for one in statements if figures.prose(one.text) not in texts[one.page]]
    assert not wrong, "\n".join(f"{one.page} does not say: {one.text}" for one in wrong)


@pytest.mark.parametrize("page", PAGES)
def test_no_measured_figure_stands_alone(page, statements):
    strays = figures.strays(page, (ROOT / page).read_text("utf-8"), statements)
    assert not strays, f"{page}: no entry in docs/figures.yaml for: " + "; ".join(strays)


def test_a_figure_that_moved_and_one_without_a_row_are_found(monkeypatch, tmp_path):
    lines = (figures.RESULTS / "amd-epyc-1t.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    for row in rows:
        if row["case"] == "refine: held-out crops from half size":
            row["figures"]["bicubic"]["psnr_db"] += 0.1
    for path in figures.RESULTS.glob("*.jsonl"):
        (tmp_path / path.name).write_text(path.read_text("utf-8"))
    (tmp_path / "amd-epyc-1t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    monkeypatch.setattr(figures, "parameters", lambda backbone: 1)
    figures._rows.cache_clear()
    said = figures.prose((ROOT / "docs/edit.md").read_text("utf-8"))
    moved = [one.text for one in figures.statements()
             if one.page == "docs/edit.md" and one.text not in said]  # fmt: skip
    figures._rows.cache_clear()
    assert moved == ["19.2 dB against 32.6 dB, the tokenizer alone 22.7 dB"]
    assert figures.strays("README.md", "It takes 3.1 s, or\n40 % less.", []) == [
        "It takes 3.1 s, or 40 % ", "It takes 3.1 s, or 40 % less."
    ]  # fmt: skip
    assert not figures.strays("README.md", "```\n3.1 s\n```", [])
