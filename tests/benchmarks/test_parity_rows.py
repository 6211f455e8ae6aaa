"""A backbone that is wrong gets a red row and no figure; a sound one joins by its name alone."""

from __future__ import annotations

import pytest
import torch

from benchmarks.harness import models
from benchmarks.harness.measure import held_mib
from flexvar import Layout


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


def test_what_is_kept_grows_with_the_grid_for_attention_alone():
    kept = {}
    for backbone in ("transformer", "mamba"):
        spec = models.backbone_spec(backbone, 2, width=64)
        pipe = models.pipeline(models.config(spec), seed=0, device="cpu")
        for layout in (Layout.of(1, 2, 4), Layout.of(1, 2, 8)):
            state = pipe.model.start(torch.zeros(1, dtype=torch.long), layout)
            inputs = torch.zeros(1, layout.tokens, pipe.tokenizer.space.code_dim)
            for part in layout.slices:
                pipe.model.step(inputs[:, part] if part.start else None, state)
            kept[backbone, layout.tokens] = held_mib(state.backbone)
    # Keys and values of 2 blocks at width 64, in fp32: 1 KiB a token.
    grown = kept["transformer", 69] - kept["transformer", 21]
    assert grown == pytest.approx(48 / 1024, abs=0.011)
    assert kept["mamba", 69] == kept["mamba", 21] > 0
