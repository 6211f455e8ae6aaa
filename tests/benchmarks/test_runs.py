"""Training runs side by side."""

import json

import pytest
from PIL import Image

from flexvar.errors import FlexvarError
from studies import curves


def a_run(folder, losses):
    (folder / "samples").mkdir(parents=True)
    Image.new("RGB", (40, 20), "red").save(folder / "samples" / "step-00000100.png")
    lines = [{"kind": "train", "step": 50 * n, "loss": x} for n, x in enumerate(losses)]
    lines.append({"kind": "validation", "step": 100, "validation_loss": losses[-1]})
    (folder / "log.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    return folder


def test_curves_and_samples_in_one_picture(tmp_path):
    pytest.importorskip("matplotlib")
    both = [a_run(tmp_path / name, [6.9, 3.0, 2.0 + n]) for n, name in enumerate("ab")]
    assert curves.curves(both[0]) == {
        "a, training": [(50, 3.0), (100, 2.0)], "a, held out": [(100, 2.0)]
    }  # fmt: skip
    page = curves.picture(both)
    assert (255, 0, 0) in {colour for _, colour in page.getcolors(2**20)}
    assert page.height > page.width // 2


def test_what_is_no_run_is_said(tmp_path):
    with pytest.raises(FlexvarError, match=r"is no training run: log.jsonl: No such file"):
        curves.curves(tmp_path)
    (tmp_path / "log.jsonl").write_text('{"kind": "train", "step": 1, "loss": 3.0}\n')
    with pytest.raises(FlexvarError, match="no losses of a model yet"):
        curves.curves(tmp_path)
    with pytest.raises(FlexvarError, match="has no sample grid"):
        curves.samples(tmp_path)
