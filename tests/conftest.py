"""Fixtures shared by all tests: golden checkpoints and a pipeline small enough to run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from flexvar import Layout, Pipeline
from flexvar.released import convert

GOLDEN = Path(__file__).parent / "golden"
TINY_CNN = {
    "channels": 32,
    "channel_multipliers": [1, 1, 1],
    "blocks": 1,
    "latent_channels": 32,
    "vocab_size": 61,
    "code_dim": 8,
}
TINY: dict[str, Any] = {
    "tokenizer": {"name": "multiscale", **TINY_CNN},
    "backbone": {"name": "transformer", "depth": 2, "width": 64, "num_heads": 2},
    "num_classes": 5,
    "class_names": ["ant", "bee", "cat", "dog", "eel"],
}


@dataclass(frozen=True)
class Golden:
    """One published implementation's small checkpoint and what it computes."""

    name: str
    config: dict[str, Any]
    pipe: Pipeline
    io: dict[str, torch.Tensor]

    @property
    def layout(self) -> Layout:
        return Layout.of(*self.config["scales"])


@pytest.fixture(scope="session", params=["flexvar", "var", "var_k10"])
def golden(request: pytest.FixtureRequest) -> Golden:
    folder = GOLDEN / request.param
    config = json.loads((folder / "config.json").read_text())
    pipe = convert(
        tokenizer=folder / "tokenizer.safetensors",
        model=folder / "transformer.safetensors",
        scales=config["scales"],
    )
    return Golden(request.param, config, pipe, load_file(folder / "io.safetensors"))


def shake(pipe: Pipeline, seed: int = 0) -> Pipeline:
    """Weights that make every part matter: fresh gates of 1e-3 would hide a wrong branch."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in pipe.model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise * (0.5 / max(parameter.shape[-1], 4) ** 0.5))
    return pipe


@pytest.fixture(scope="session")
def tiny() -> Pipeline:
    """A random FlexVAR of depth 2, stride 4, 5 named classes."""
    return shake(Pipeline.from_config(TINY, seed=1))


@pytest.fixture(scope="session")
def tiny_dir(tiny: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_pretrained(tmp_path_factory.mktemp("checkpoint") / "tiny")
