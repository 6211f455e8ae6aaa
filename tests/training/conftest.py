"""Recipes small enough to train in a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flexvar.config import parse
from flexvar.training import ModelRecipe, TokenizerRecipe, train

CNN = {
    "vocab_size": 32,
    "code_dim": 4,
    "channels": 8,
    "groups": 4,
    "channel_multipliers": [1, 1, 1],
    "blocks": 1,
    "latent_channels": 8,
}
COMMON: dict[str, Any] = {
    "data": {"source": "digits", "size": 16},
    "batch_size": 4,
    "steps": 6,
    "log_every": 2,
    "validate_every": 0,
    "sample_every": 0,
    "save_every": 0,
    "validation_images": 8,
    "tensorboard": False,
    "optimiser": {"learning_rate": 3e-3, "warmup": 0, "flat": 0.5},
}


def tokenizer_options(out: Path | str | None = None, **changes: Any) -> dict[str, Any]:
    """A recipe for stage 1, as YAML would give it."""
    base = {
        **COMMON,
        "out": None if out is None else str(out),
        "tokenizer": {"name": "multiscale", **CNN},
        "random_grids": 2,
        "losses": [{"name": "l1"}, {"name": "ssim", "weight": 0.2}],
        "codebook": {"initial_images": 8, "revive_every": 2},
    }
    return base | changes


def model_options(tokenizer: Path | str, out: Path | str | None, **changes: Any) -> dict[str, Any]:
    """A recipe for stage 2, as YAML would give it."""
    base = {
        **COMMON,
        "out": None if out is None else str(out),
        "tokenizer": str(tokenizer),
        "backbone": {"name": "transformer", "depth": 2, "width": 32, "num_heads": 2,
                     "drop_path": 0.1},
        "position": {"name": "learned2d", "side": 8},
    }  # fmt: skip
    return base | changes


def quiet(line: str) -> None:
    """Say nothing."""


@pytest.fixture
def tokenizer_recipe() -> Callable[..., TokenizerRecipe]:
    return lambda *args, **kw: parse(TokenizerRecipe, tokenizer_options(*args, **kw))


@pytest.fixture
def model_recipe() -> Callable[..., ModelRecipe]:
    return lambda *args, **kw: parse(ModelRecipe, model_options(*args, **kw))


@pytest.fixture(scope="session")
def trained_tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a tokenizer that has seen six batches."""
    out = tmp_path_factory.mktemp("tokenizer")
    train(parse(TokenizerRecipe, tokenizer_options(out)), device="cpu", say=quiet)
    return out
