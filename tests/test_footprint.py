"""What `flexvar show --size` and `--dry-run` say of memory, against what a CPU takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import allocated
from typer.testing import CliRunner

from flexvar import Component, Pipeline, checkpoint, hookimpl
from flexvar.cli import application
from flexvar.components import ReleasedFile, ReleasedModel
from flexvar.errors import CheckpointError
from flexvar.footprint import footprint
from flexvar.plugin import Registry, default_registry
from flexvar.pull import find, names

BITS: dict[str, Any] = {
    "tokenizer": {
        "name": "bsq", "code_dim": 16, "channels": 16, "groups": 4, "channel_multipliers": [1, 1],
        "blocks": 1, "latent_channels": 16,
    },
    "backbone": {
        "name": "transformer", "depth": 2, "width": 64, "num_heads": 2, "cross_attention": True,
    },
    "position": "rope2d",
    "schedule": {"name": "explicit", "grids": [1, 2, 4, 8, 16]},
    "conditioner": {"name": "attention_pool", "encoder": "embeddings", "channels": 16,
                    "max_tokens": 8, "pool_heads": 2},
}  # fmt: skip
CODES: dict[str, Any] = {
    "tokenizer": {
        "name": "multiscale", "vocab_size": 64, "channels": 16, "groups": 4,
        "channel_multipliers": [1, 1], "blocks": 1, "latent_channels": 16,
    },
    "backbone": {"name": "mamba", "depth": 2, "width": 64},
    "schedule": {"name": "explicit", "grids": [1, 2, 4, (8, 12)]},
}  # fmt: skip
# The plan over what the allocator handed out at a time: not below it, as operations take memory for
# themselves too, and above it where a CPU has steps in one that the plan counts apart.
LEAST, MOST = 0.99, 1.2


@pytest.mark.parametrize("config", [BITS, CODES], ids=["bits", "codes"])
@pytest.mark.parametrize("options", [{"guidance": 2.0}, {"guidance": 1.0}], ids=["two", "one"])
def test_the_most_of_a_generation_is_what_a_cpu_takes(
    config: dict[str, Any], options: dict[str, Any]
) -> None:
    options = {**options, "guidance_schedule": "constant"}
    with torch.device("meta"):
        shapes = Pipeline.from_config(config)
    size = (32, 32) if config is BITS else (16, 24)
    planned = footprint(shapes, shapes.layout(size), options)
    pipe = Pipeline.from_config(config)
    call: dict[str, Any] = {"prompts": [None]} if config is BITS else {"labels": [None]}
    found, _ = allocated(lambda: pipe(**call, size=size, seed=0, output="tensor", **options))
    assert LEAST * found <= planned.peak - planned.held <= MOST * found


def test_large_pictures_are_planned_in_tiles() -> None:
    with torch.device("meta"):
        shapes = Pipeline.from_config(BITS)
    whole, tiled = (footprint(shapes, shapes.layout(), tile=tile) for tile in (0, 8))
    assert tiled.decode < 0.7 * whole.decode
    two = footprint(shapes, shapes.layout(), images=2, images_per_call=2)
    assert two.state == pytest.approx(2 * whole.state, rel=0.05)
    assert two.logits == 2 * whole.logits == 2 * 16 * 16 * 16 * 2 * 4


def test_a_model_that_is_not_here_is_shown_without_a_download() -> None:
    """Keys and values of both halves, of the picture's tokens and of 512 of the prompt."""
    done = CliRunner().invoke(
        application(), ["show", "infinity-2b", "--size", "256x256", "--dtype", "bf16", "--json"]
    )
    memory = json.loads(done.output)["memory"]
    assert memory["tokens"] == 1 + 4 + 16 + 36 + 64 + 144 + 256
    cached = 2 * (memory["tokens"] + 512) * 2 * 2048 * 32 * 2
    assert memory["state"] == pytest.approx(cached, rel=0.05)
    assert sum(memory["weights"]["model"].values()) == 2 * 2_204_629_568
    assert memory["encoder"] == ["google/flan-t5-xl", 2 * 1_223_527_424, True]
    assert memory["peak"] == sum(
        size for part in memory["weights"].values() for size in part.values()
    ) + max(memory["encoder"][1], memory["state"] + memory["step"], memory["decode"])


@pytest.mark.parametrize("name", names(default_registry()))
def test_released_models_have_as_many_weights_as_their_files(name: str) -> None:
    pipe = Pipeline.without_weights(name)
    _, model = find(name, default_registry())
    counts = {"tokenizer": 0, "model": 0}
    for part, module in zip(counts, pipe.parts.modules(), strict=False):
        counts[part] = sum(one.numel() for one in module.parameters())
    for file in model.files:
        # Pickles have some thousand bytes of names; estimates were rounded, and those of small
        # files are to some percent.
        assert (file.size or file.about) == pytest.approx(4 * counts[file.part], rel=0.03)


def test_a_released_model_that_nobody_describes_has_to_be_pulled() -> None:
    class Plugin:
        @hookimpl
        def flexvar_released(self) -> Any:
            yield Component(name="mute", target=f"{__name__}:MUTE")

    registry = Registry()
    registry.add(Plugin())
    with pytest.raises(CheckpointError, match=r"mute is not here.*`flexvar pull mute`"):
        Pipeline.without_weights("mute", registry=registry)


MUTE = ReleasedModel(files=(ReleasedFile("model", "a/b", "c.pth"),), license="MIT", source="none")


def test_a_dry_run_reads_no_weights_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "read_tensors", None)
    out = tmp_path / "out"
    call = ["generate", "--model", "photos", "--label", "coffee", "--num", "3", "--out", str(out),
            "--size", "64x64", "--dry-run"]  # fmt: skip
    done = CliRunner().invoke(application(), [*call, "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert "Memory for 64x64 px (3 images, one at a time)" in done.output
    assert "most at a time" in done.output
    assert not out.exists()
    # As without it, a label takes the bundled model where none is named.
    unnamed = [word for word in call if word not in ("--model", "photos")]
    again = CliRunner().invoke(application(), [*unnamed, "--device", "cpu"])
    assert "model photos, which comes along" in again.output
    assert again.output.endswith(done.output)
