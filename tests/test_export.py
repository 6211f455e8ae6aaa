"""Models as ONNX graphs: the same tokens and pictures, made by onnxruntime alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TINY, TINY_CNN, shake

from flexvar import FlexvarError, Pipeline

SMALL = {**TINY, "backbone": {"name": "transformer", "depth": 1, "width": 64, "num_heads": 2}}
MAMBA = {
    **TINY,
    "backbone": {"name": "mamba", "depth": 1, "width": 32, "state_size": 16},
}
# VAR's parts.
RESIDUAL = {
    **SMALL,
    "tokenizer": {"name": "residual", **TINY_CNN, "refiners": 2},
    "position": {"name": "per_scale", "grids": [1, [3, 4]]},
    "schedule": {"name": "explicit", "grids": [1, [3, 4]]},
}


def made(config: dict[str, Any]) -> Pipeline:
    return shake(Pipeline.from_config(config, seed=1))


@pytest.fixture(scope="module", autouse=True)
def _packages() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(name)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uneven layout of three scales, with guidance that grows over them."""
    from flexvar.export import export

    folder = tmp_path_factory.mktemp("onnx") / "tiny"
    found = export(made(SMALL), folder, size=(12, 20), steps=[(1, 1), (2, 3), (3, 5)])
    assert found.tokens == 3 * 22
    assert found.difference < 1e-3
    return folder


def test_the_files_share_their_weights(exported: Path) -> None:
    names = sorted(path.name for path in exported.iterdir())
    graphs = ["decoder.onnx", "scale_00.onnx", "scale_01.onnx", "scale_02.onnx"]
    assert names == sorted([*graphs, "config.json", "generate.py", "weights.bin"])
    pipe = made(SMALL)
    numbers = sum(p.numel() for part in pipe.parts.modules() for p in part.parameters())
    assert (exported / "weights.bin").stat().st_size < 1.1 * 4 * numbers
    # No note names a file of the machine that made them.
    assert not any(b".py" in (exported / name).read_bytes() for name in graphs)
    config = json.loads((exported / "config.json").read_text())
    assert config["size"] == [12, 20]
    assert config["guidance"] == [0.0, 1.0, 2.0]
    assert config["draws"] == [True, True, True]


def test_a_program_without_torch_makes_the_picture(exported: Path, tmp_path: Path) -> None:
    code = (
        "import runpy, sys; sys.argv[1:] = sys.argv[2:]; "
        f"runpy.run_path({str(exported / 'generate.py')!r}, run_name='__main__'); "
        "assert not {'torch', 'flexvar'} & set(sys.modules)"
    )
    out = tmp_path / "x.png"
    command = [sys.executable, "-c", code, "_", "--label", "cat", "--seed", "3", "--out", str(out)]
    subprocess.run(command, check=True, cwd=tmp_path)
    from PIL import Image

    assert Image.open(out).size == (20, 12)


def test_tokens_are_drawn_as_the_settings_say(exported: Path) -> None:
    from flexvar.onnx_runner import Generator

    generator = Generator(exported)
    logits = np.log(np.array([[[0.5, 0.2, 0.2, 0.05, 0.05]]])).repeat(4000, 1)

    def shares(**settings: Any) -> list[float]:
        generator.config |= {"temperature": 1.0, "top_k": 0, "top_p": 1.0, **settings}
        drawn = generator._draw(logits, np.random.default_rng(0))
        return [float((drawn == token).mean()) for token in range(5)]

    assert np.allclose(shares(), [0.5, 0.2, 0.2, 0.05, 0.05], atol=0.03)
    # Ties with the last one stay too, as in the sampler.
    assert np.allclose(shares(top_k=2), [5 / 9, 2 / 9, 2 / 9, 0, 0], atol=0.03)
    assert np.allclose(shares(top_p=0.6), [5 / 7, 2 / 7, 0, 0, 0], atol=0.03)


def test_a_graph_that_differs_is_found(exported: Path) -> None:
    from flexvar.export import check

    other = made(SMALL)
    with torch.no_grad():
        other.model.head.logits.weight.neg_()
    layout = other.layout((12, 20), [(1, 1), (2, 3), (3, 5)])
    with pytest.raises(FlexvarError, match="at scale 1 of 3, 1 of 1 tokens of class 0"):
        check(other, exported, layout)


@pytest.mark.slow
@pytest.mark.parametrize("config", [MAMBA, RESIDUAL], ids=["mamba", "residual"])
def test_other_parts(config: dict[str, Any], tmp_path: Path) -> None:
    from flexvar.export import export

    found = export(made(config), tmp_path / "x", size=(12, 16), steps=[(1, 1), (3, 4)])
    assert found.tokens == 3 * 13


def test_what_cannot_be_exported(exported: Path, tmp_path: Path) -> None:
    from flexvar.export import export

    with pytest.raises(FlexvarError, match="is there already"):
        export(made(SMALL), exported)
    text = {**SMALL, "conditioner": "none"}
    with pytest.raises(FlexvarError, match="only models of classes"):
        export(Pipeline.from_config(text), tmp_path / "x")
    soft = made(SMALL)
    soft.settings = soft.settings.model_copy(update={"soft": True})
    with pytest.raises(FlexvarError, match="no mean codes"):
        export(soft, tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_without_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flexvar.export import export

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(FlexvarError, match=r"pip install 'flexvar\[onnx\]'"):
        export(made(SMALL), tmp_path / "x")
