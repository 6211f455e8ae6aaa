"""The notebooks run from top to bottom, and show what is kept in them."""

from __future__ import annotations

import base64
import importlib.util
import io
from itertools import chain
from pathlib import Path

import pytest
from PIL import Image, ImageStat

pytest.importorskip("sklearn")
pytest.importorskip("accelerate")
pytest.importorskip("matplotlib")

FOLDER = Path(__file__).parents[2] / "docs"
NOTEBOOKS = sorted((FOLDER / "notebooks").glob("*.ipynb"))
SPEC = importlib.util.spec_from_file_location("notebooks", FOLDER / "reference" / "notebooks.py")
assert SPEC is not None
assert SPEC.loader is not None
notebooks = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(notebooks)


def picture(output):
    data = base64.b64decode(output["data"]["image/png"])
    return Image.open(io.BytesIO(data)).convert("RGB")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_shows_what_its_cells_give(path, tmp_path):
    notebook = notebooks.read(path)
    stored = [cell["outputs"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    found = notebooks.execute(notebook, tmp_path)
    assert [[one["output_type"] for one in cell] for cell in found] == [
        [one["output_type"] for one in cell] for cell in stored
    ]
    pictures = 0
    for now, before in zip(chain(*found), chain(*stored), strict=True):
        if "image/png" not in now.get("data", {}):
            assert now.get("text") == before.get("text")
            assert now.get("data") == before.get("data")
            continue
        pictures += 1
        new, old = picture(now), picture(before)
        assert new.size == old.size
        # Another processor may flip a token now and then; an empty picture is something else.
        assert max(ImageStat.Stat(new).stddev) > 5
        gaps = zip(ImageStat.Stat(new).mean, ImageStat.Stat(old).mean, strict=True)
        assert max(abs(a - b) for a, b in gaps) < 16
    assert pictures >= 2


def test_together_they_are_small_and_make_pages():
    assert len(NOTEBOOKS) == 2
    assert sum(path.stat().st_size for path in NOTEBOOKS) < 1_000_000
    for path in NOTEBOOKS:
        text, pictures = notebooks.page(notebooks.read(path), path.stem)
        assert text.startswith("# ")
        assert all(f"]({name})" in text for name in pictures)


def test_what_a_cell_gives_is_what_jupyter_would_show(tmp_path):
    cells = ["x = 3\nprint(x)\nx + 1", "x = 5", "raise ValueError(str(x))"]
    notebook = {"cells": [{"cell_type": "code", "source": [text]} for text in cells[:2]]}
    (first, second) = notebooks.execute(notebook, tmp_path)
    assert [one.get("text") or one["data"]["text/plain"] for one in first] == ["3\n", "4"]
    assert second == []
    broken = [{"cell_type": "code", "source": [text]} for text in cells]
    with pytest.raises(ValueError, match="5"):
        notebooks.execute({"cells": broken}, tmp_path)
