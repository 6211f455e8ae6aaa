"""Infinity's released models: where their files are, and what they are.

Names and the pairing of tokenizer and model stand in the README of
github.com/FoundationVision/Infinity. Sizes are four bytes for each parameter.
"""

from __future__ import annotations

from typing import Any

from flexvar.components.released import ReleasedFile, ReleasedModel
from flexvar_zoo.released.infinity import PRESETS, described, trained_on

REPOSITORY = "FoundationVision/Infinity"


def infinity_2b() -> dict[str, Any]:
    """The config that the files of the 2B model become."""
    tokenizer = {
        "name": "bsq",
        "code_dim": 32,
        "channels": 128,
        "channel_multipliers": [1, 2, 4, 4, 4],
        "blocks": 2,
        "latent_channels": 32,
        "projection_kernel": 0,
        "attention": False,
        "patchify": 1,
    }
    model = {"tokenizer": tokenizer, **described(width=2048, depth=32, heads=16)}
    return {"model": model, "presets": PRESETS, "trained": trained_on("1M", 16)}


INFINITY_2B = ReleasedModel(
    files=(
        ReleasedFile("tokenizer", REPOSITORY, "infinity_vae_d32reg.pth", about=440_000_000),
        ReleasedFile("model", REPOSITORY, "infinity_2b_reg.pth", about=4 * 2_205_000_000),
    ),
    license="MIT",
    source="README of github.com/FoundationVision/Infinity",
    converter="infinity",
    config=infinity_2b,
)
