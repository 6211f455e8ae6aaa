"""A residual tokenizer read as if every scale were the full picture.

The row "GT + VAR tokenizer" of FlexVAR's table 4: each scale is the nearest codes of the resized
latent, and the last one alone is decoded. The codebook was made for what coarser scales leave
over, so this is meant to do badly; it exists for the comparison and is no plugin of the package.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import SimpleNamespace

from flexvar_plugins.tokenizers.multiscale import MultiscaleTokenizer
from flexvar_plugins.tokenizers.residual import ResidualTokenizer
from torch import nn

from flexvar import Pipeline
from flexvar.build import build
from flexvar.checkpoint import CheckpointConfig
from flexvar.plugin import Component, default_registry, hookimpl

NAME = "benchmark-full-over-residual"


class FullOverResidual(ResidualTokenizer):
    """Weights and codebook of a residual tokenizer; scales as of `MultiscaleTokenizer`."""

    quantize = MultiscaleTokenizer.quantize
    fold = MultiscaleTokenizer.fold
    resize = MultiscaleTokenizer.resize


@hookimpl
def flexvar_tokenizers() -> Iterable[Component]:
    """The one tokenizer."""
    yield Component(name=NAME, target=f"{__name__}:FullOverResidual")


@cache
def offer() -> None:
    """Make the tokenizer known in this process."""
    default_registry.cache_clear()
    plugin = SimpleNamespace(flexvar_tokenizers=flexvar_tokenizers)
    default_registry().add(plugin, name="ablation", distribution="benchmarks")


def convert(source: Path, target: Path) -> Path:
    """A checkpoint at ``target`` that reads the residual tokenizer's weights at ``source`` so."""
    offer()
    pipe = Pipeline.from_pretrained(source)
    tokenizer = pipe.config.model.tokenizer.model_copy(update={"name": NAME})
    config = pipe.config.model.model_copy(update={"tokenizer": tokenizer})
    parts = build(config)
    weights = pipe.parts.tokenizer
    assert isinstance(weights, nn.Module)
    assert isinstance(parts.tokenizer, FullOverResidual)
    parts.tokenizer.load_state_dict(weights.state_dict())
    parts.tokenizer.eval()
    whole = CheckpointConfig(model=config, trained=pipe.config.trained)
    Pipeline(parts, whole, pipe.settings).save_pretrained(target)
    return target
