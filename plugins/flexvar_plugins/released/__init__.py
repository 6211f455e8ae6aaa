"""The released files of VAR, FlexVAR and LlamaGen -> flexvar checkpoints.

Everything is read from the tensors: depth, widths, heads, vocabulary, classes, shared AdaLN,
convolution channels. Keys are renamed, never reordered, but for FlexVAR's and LlamaGen's
separate q, k and v of the convolutional attention, which become one.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal

from pydantic import field_validator
from torch import Tensor

from flexvar.components.converter import Converted, ReleasedState
from flexvar.config import ComponentConfig
from flexvar.convert import convert
from flexvar.weights import read_weights as read_released
from flexvar_plugins.released.tokenizer import convert_tokenizer
from flexvar_plugins.released.transformer import check_pair, convert_model, noted_scales
from flexvar_plugins.samplers.released import DRAW_SIDES

__all__ = ["ReleasedConfig", "ReleasedConverter", "convert", "read_released"]

CODEBOOK, EMBEDDING = "quantize.embedding.weight", "word_embed.weight"

FLEXVAR_DEFAULT = {"guidance": 2.5, "guidance_schedule": "ramp10", "top_k": 900, "top_p": 0.95}
FLEXVAR_PRESETS: dict[str, dict[str, Any]] = {
    "default": FLEXVAR_DEFAULT,
    "released": {**FLEXVAR_DEFAULT, "draw_sides": DRAW_SIDES},
}
VAR_PRESETS: dict[str, dict[str, Any]] = {
    "default": {"guidance": 1.5, "guidance_schedule": "ramp", "top_k": 900, "top_p": 0.96},
    "smooth": {
        "guidance": 4.0,
        "guidance_schedule": "ramp",
        "top_k": 900,
        "top_p": 0.95,
        "soft": True,
    },
}


class ReleasedConfig(ComponentConfig):
    """scales: sides of the training list, for files that cannot tell, such as 1,2,3,4,5."""

    scales: tuple[int, ...] | None = None

    @field_validator("scales")
    @classmethod
    def _rise_from_one(cls, scales: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if scales is not None and (
            not scales or scales[0] != 1 or any(b <= a for a, b in pairwise(scales))
        ):
            raise ValueError("expected rising sides from 1 on, for example 1,2,3,4,5")
        return scales


class ReleasedConverter:
    """Tokenizers of FlexVAR, VAR and LlamaGen, transformers of FlexVAR and VAR."""

    Config = ReleasedConfig
    reads = "VAR, FlexVAR and LlamaGen's tokenizers"

    def __init__(self, config: ReleasedConfig) -> None:
        self.config = config

    @classmethod
    def part(cls, state: Mapping[str, Tensor]) -> Literal["tokenizer", "model"] | None:
        """What a state dict is, by the names that all of these files share."""
        if CODEBOOK in state:
            return "tokenizer"
        return "model" if EMBEDDING in state else None

    def convert(self, tokenizer: ReleasedState, model: ReleasedState | None) -> Converted:
        """Options and weights of the parts."""
        tokenizer = _without_holders(tokenizer)
        spec, tokenizer_weights = convert_tokenizer(tokenizer)
        config: dict[str, Any] = {"tokenizer": spec}
        if model is None:
            return Converted(config, tokenizer_weights)
        model = _without_holders(model)
        scales = self.config.scales or noted_scales(model.beside, model)
        check_pair(model, tokenizer)
        description, weights = convert_model(model, scales)
        config |= description
        stride = 2 ** (len(spec["channel_multipliers"]) - 1)
        if model["pos_1LC"].ndim == 4:
            presets = FLEXVAR_PRESETS
            # The table has twice the side of the training latent.
            side = scales[-1] if scales else max(1, model["pos_1LC"].shape[-1] // 2)
            # The released code's training lists; another list says nothing of its own.
            steps = None if scales else (6, 10)
        else:
            presets = VAR_PRESETS
            side = config["schedule"]["grids"][-1]
            steps = (len(config["schedule"]["grids"]),) * 2
        trained = {"size": (side * stride, side * stride), "steps": steps}
        return Converted(config, tokenizer_weights, weights, presets, trained)


def _without_holders(state: ReleasedState) -> ReleasedState:
    """Names without ``module``, which these models call no part, wherever wrappers put it."""
    names = {name: ".".join(p for p in name.split(".") if p != "module") for name in state}
    return ReleasedState({names[k]: v for k, v in state.items()}, state.source, state.beside)
