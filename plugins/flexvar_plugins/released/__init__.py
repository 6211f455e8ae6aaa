"""The released files of VAR, FlexVAR and LlamaGen -> flexvar checkpoints.

Everything is read from the tensors: depth, widths, heads, vocabulary, classes, shared AdaLN,
convolution channels. Keys are renamed, never reordered, but for FlexVAR's and LlamaGen's
separate q, k and v of the convolutional attention, which become one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from flexvar.build import build_for_weights
from flexvar.checkpoint import CheckpointConfig, Trained, load_weights
from flexvar.config import ModelConfig, SamplerSpec, parse
from flexvar.errors import CheckpointError, FlexvarError
from flexvar.pipeline import Pipeline
from flexvar_plugins.released.files import State, find, read_released
from flexvar_plugins.released.tokenizer import convert_tokenizer
from flexvar_plugins.released.transformer import check_pair, convert_model, noted_scales
from flexvar_plugins.samplers.released import DRAW_SIDES
from flexvar_plugins.samplers.standard import StandardConfig

__all__ = ["convert", "read_released"]


def _preset(**options: Any) -> SamplerSpec:
    return SamplerSpec.model_validate(StandardConfig(**options))


FLEXVAR_PRESETS = {
    "default": _preset(guidance=2.5, guidance_schedule="ramp10", top_k=900, top_p=0.95),
    "released": _preset(
        guidance=2.5,
        guidance_schedule="ramp10",
        top_k=900,
        top_p=0.95,
        draw_sides=DRAW_SIDES,
    ),
}
VAR_PRESETS = {
    "default": _preset(guidance=1.5, guidance_schedule="ramp", top_k=900, top_p=0.96),
    "smooth": _preset(guidance=4.0, guidance_schedule="ramp", top_k=900, top_p=0.95, soft=True),
}


def convert(
    *,
    tokenizer: str | Path | None = None,
    model: str | Path | None = None,
    scales: Sequence[int] | None = None,
    class_names: Sequence[str] | None = None,
) -> Pipeline:
    """The pipeline of released files; `Pipeline.save_pretrained` makes a checkpoint of it.

    tokenizer: a file of FlexVAR's, VAR's or LlamaGen's tokenizer. model: a file of VAR's or
    FlexVAR's transformer; a training checkpoint may hold the tokenizer too. scales: sides of
    the training list, for files that cannot tell.
    Raises `FlexvarError` for files that are missing, unsafe, or not what they should be.
    """
    if tokenizer is None and model is None:
        raise FlexvarError("Nothing to convert: give --tokenizer, --model or both.")
    model_file = None if model is None else read_released(model)
    tokenizer_file = model_file if tokenizer is None else read_released(tokenizer)
    source = tokenizer or model
    tokenizer_state = find(tokenizer_file, "quantize.embedding.weight", source)
    if tokenizer_state is None:
        if tokenizer is None:
            raise CheckpointError(
                f"{source} holds no tokenizer; give its file too: --tokenizer FILE."
            )
        raise CheckpointError(f"{source} holds no tokenizer of a known layout.")
    if scales is not None and (scales[0] != 1 or any(b <= a for a, b in pairwise(scales))):
        raise FlexvarError(
            f"--scales {','.join(map(str, scales))}: expected rising sides from 1 on, for example "
            "1,2,3,4,5."
        )
    try:
        parts = convert_tokenizer(tokenizer_state)
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise _misshapen(source, error) from None
    config: dict[str, Any] = {"tokenizer": parts.spec}
    presets: dict[str, SamplerSpec] = {}
    trained = None
    model_weights: State | None = None
    if model_file is not None:
        state = find(model_file, "word_embed.weight", model)
        if state is None:
            raise CheckpointError(f"{model} holds no transformer of VAR or FlexVAR.")
        if scales is None:
            scales = noted_scales(model_file, state)
        try:
            check_pair(state, tokenizer_state)
            description, model_weights = convert_model(state, scales)
        except (ValueError, IndexError, ZeroDivisionError, RuntimeError) as error:
            raise _misshapen(model, error) from None
        config |= description
        stride = 2 ** (len(parts.spec["channel_multipliers"]) - 1)
        if state["pos_1LC"].ndim == 4:
            presets = FLEXVAR_PRESETS
            steps: tuple[int, int] | None
            # The table has twice the side of the training latent.
            side = scales[-1] if scales else max(1, state["pos_1LC"].shape[-1] // 2)
            # The released code's training lists; another list says nothing of its own.
            steps = None if scales else (6, 10)
        else:
            presets = VAR_PRESETS
            side = config["schedule"]["grids"][-1]
            steps = (len(config["schedule"]["grids"]),) * 2
        trained = Trained(size=(side * stride, side * stride), steps=steps)
    if class_names is not None:
        if len(class_names) != config.get("num_classes"):
            raise FlexvarError(
                f"{len(class_names)} class names, but the model has "
                f"{config.get('num_classes', 'no')} classes; give one name per class."
            )
        config["class_names"] = tuple(class_names)
    model_config = parse(ModelConfig, config)
    built = build_for_weights(model_config)
    assert isinstance(built.tokenizer, torch.nn.Module)
    load_weights(built.tokenizer, parts.weights, source)
    if built.model is not None and model_weights is not None:
        load_weights(built.model, model_weights, model)
    for module in built.modules():
        module.eval()
    checkpoint = CheckpointConfig(model=model_config, presets=presets, trained=trained)
    return Pipeline(built, checkpoint).to("cpu")


def _misshapen(source: object, error: Exception) -> CheckpointError:
    """A tensor whose shape makes no sense for its name; errors of flexvar's own stay."""
    if isinstance(error, FlexvarError):
        return CheckpointError(str(error))
    return CheckpointError(f"{source} has a tensor of an unexpected shape ({error}).")
