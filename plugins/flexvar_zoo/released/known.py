"""Infinity's released models: where their files are, and what they are.

Names and the pairing of tokenizer and model stand in the README of
github.com/FoundationVision/Infinity. Sizes are four bytes for each parameter.
"""

from __future__ import annotations

from flexvar.components.released import ReleasedFile, ReleasedModel

REPOSITORY = "FoundationVision/Infinity"

INFINITY_2B = ReleasedModel(
    files=(
        ReleasedFile("tokenizer", REPOSITORY, "infinity_vae_d32reg.pth", about=440_000_000),
        ReleasedFile("model", REPOSITORY, "infinity_2b_reg.pth", about=4 * 2_205_000_000),
    ),
    license="MIT",
    source="README of github.com/FoundationVision/Infinity",
    converter="infinity",
)
