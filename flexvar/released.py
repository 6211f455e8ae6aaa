"""The released files of VAR, FlexVAR and LlamaGen -> flexvar checkpoints.

Everything is read from the tensors: depth, widths, heads, vocabulary, classes, shared AdaLN,
convolution channels. Keys are renamed, never reordered, but for FlexVAR's and LlamaGen's
separate q, k and v of the convolutional attention, which become one.
"""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flexvar.build import build_for_weights
from flexvar.checkpoint import CheckpointConfig, Trained, load_weights, read_tensors
from flexvar.config import ModelConfig, parse
from flexvar.errors import CheckpointError, FlexvarError
from flexvar.generate import SamplingSettings
from flexvar.pipeline import Pipeline

State = dict[str, Tensor]

# FlexVAR's code draws tokens at these sides only and takes the likeliest elsewhere, and always
# above the trained side of 16.
FLEXVAR_DRAW_SIDES = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
# Lists of VAR's released models, for files that cannot tell: 256 px and 512 px.
VAR_LISTS = ((1, 2, 3, 4, 5, 6, 8, 10, 13, 16), (1, 2, 3, 4, 6, 9, 13, 18, 24, 32))
FLEXVAR_PRESETS = {
    "default": SamplingSettings(guidance=2.5, guidance_schedule="ramp10", top_k=900, top_p=0.95),
    "released": SamplingSettings(
        guidance=2.5,
        guidance_schedule="ramp10",
        top_k=900,
        top_p=0.95,
        draw_sides=FLEXVAR_DRAW_SIDES,
    ),
}
VAR_PRESETS = {
    "default": SamplingSettings(guidance=1.5, guidance_schedule="ramp", top_k=900, top_p=0.96),
    "smooth": SamplingSettings(
        guidance=4.0, guidance_schedule="ramp", top_k=900, top_p=0.95, soft=True
    ),
}


class Released(dict[str, Tensor]):
    """A released state dict; a tensor that it lacks is an error that names it."""

    def __init__(self, tensors: Mapping[str, Tensor], source: object) -> None:
        super().__init__(tensors)
        self.source = source

    def __missing__(self, name: str) -> Tensor:
        raise CheckpointError(f"{self.source} is incomplete: it has no tensor {name!r}.")

    def count(self, pattern: str) -> int:
        """Members of a numbered list of modules, whose number is the pattern's group."""
        numbers = {int(match[1]) for name in self if (match := re.match(pattern, name))}
        missing = set(range(len(numbers))) - numbers
        if missing or not numbers:
            what = pattern.replace("\\", "").replace("(d+)", str(min(missing, default=0)))
            raise CheckpointError(f"{self.source} is incomplete: it has no tensors {what}*.")
        return len(numbers)


@dataclass(frozen=True, slots=True)
class Converted:
    """A component's options and its weights under flexvar's names."""

    spec: dict[str, Any]
    weights: State


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
    tokenizer_state = _find(tokenizer_file, "quantize.embedding.weight", source)
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
    presets: dict[str, SamplingSettings] = {}
    trained = None
    model_weights: State | None = None
    if model_file is not None:
        state = _find(model_file, "word_embed.weight", model)
        if state is None:
            raise CheckpointError(f"{model} holds no transformer of VAR or FlexVAR.")
        if scales is None:
            scales = _noted_scales(model_file, state)
        try:
            _check_pair(state, tokenizer_state)
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
    return Pipeline(built, checkpoint, presets.get("default", SamplingSettings())).to("cpu")


def read_released(path: str | Path) -> Any:
    """What is in a ``.pth`` or ``.safetensors`` file; a pickle is read without running code.

    Raises `CheckpointError` if it is missing, truncated, or would run code.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"There is no file {path}.")
    if path.suffix == ".safetensors":
        return read_tensors(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old pickle protocols, which are read all the same
            # Training files keep their command line in a Namespace, which runs no code.
            with torch.serialization.safe_globals([argparse.Namespace]):
                return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "weights_only" in str(error).lower() or "global" in str(error).lower():
            name = re.search(r"GLOBAL ([\w.]+)", str(error))
            raise CheckpointError(
                f"{path} holds more than tensors{f' ({name[1]})' if name else ''} and could run "
                "code when it is read, so it is refused. Save its state dict alone, or as "
                "safetensors."
            ) from None
        raise CheckpointError(f"{path} is truncated or no PyTorch file.") from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).strip().split(". ")[0].splitlines()
        detail = f" ({reason[0]})" if reason and not isinstance(error, KeyError) else ""
        raise CheckpointError(f"{path} is truncated or no PyTorch file{detail}.") from None


def _find(data: Any, marker: str, source: object) -> Released | None:
    """The state dict with a tensor of that name, however nested; averaged weights first."""
    for state in _states(data):
        clean = {_bare(name): value for name, value in state.items()}
        if marker in clean:
            return Released(clean, source)
    return None


def _states(data: Any) -> Iterator[State]:
    if not isinstance(data, Mapping):
        return
    tensors = {k: v for k, v in data.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if tensors:
        yield tensors
    # LlamaGen's training files keep an average of the weights, which is the released model.
    for key in sorted(data, key=lambda k: str(k) != "ema"):
        yield from _states(data[key])


def _bare(name: str) -> str:
    return re.sub(r"^(module\.|_orig_mod\.)+", "", name)


def _misshapen(source: object, error: Exception) -> CheckpointError:
    """A tensor whose shape makes no sense for its name; errors of flexvar's own stay."""
    if isinstance(error, FlexvarError):
        return CheckpointError(str(error))
    return CheckpointError(f"{source} has a tensor of an unexpected shape ({error}).")


def _noted_scales(data: Any, state: Released) -> list[int] | None:
    """The training list that a training checkpoint of VAR notes, if it fits the model."""
    if not isinstance(data, Mapping) or state["pos_1LC"].ndim != 3:
        return None
    noted = data.get("patch_nums")
    whole = isinstance(noted, list | tuple) and all(isinstance(side, int) for side in noted)
    if noted and whole and sum(side * side for side in noted) == state["pos_1LC"].shape[1]:
        return list(noted)
    return next((found for value in data.values() if (found := _noted_scales(value, state))), None)


def convert_tokenizer(state: Released) -> Converted:
    """Options and weights of a FlexVAR, LlamaGen or VAR tokenizer's state dict."""
    residual = any(name.startswith("encoder.down.") for name in state)
    if not residual and "encoder.conv_blocks.0.res.0.conv1.weight" not in state:
        raise CheckpointError(
            "This tokenizer has neither FlexVAR's keys (encoder.conv_blocks...) nor VAR's "
            "(encoder.down...)."
        )
    if residual:
        levels = state.count(r"encoder\.down\.(\d+)\.")
        block = "encoder.down.{0}.block.{1}.conv2.weight"
    else:
        levels = state.count(r"encoder\.conv_blocks\.(\d+)\.")
        block = "encoder.conv_blocks.{0}.res.{1}.conv2.weight"
    channels = state["encoder.conv_in.weight"].shape[0]
    blocks = 0
    while block.format(0, blocks) in state:
        blocks += 1
    vocab_size, code_dim = state["quantize.embedding.weight"].shape
    spec: dict[str, Any] = {
        "name": "residual" if residual else "multiscale",
        "vocab_size": vocab_size,
        "code_dim": code_dim,
        "channels": channels,
        "channel_multipliers": [
            state[block.format(level, 0)].shape[0] // channels for level in range(levels)
        ],
        "blocks": blocks,
        "latent_channels": state["encoder.conv_out.weight"].shape[0],
        "projection_kernel": state["quant_conv.weight"].shape[-1],
    }
    weights: State = {}
    merged: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        new = _tokenizer_name(name, levels, blocks)
        if new is None:
            continue
        if match := re.fullmatch(r"(.+)\.([qkv])\.(weight|bias)", new):
            merged.setdefault(f"{match[1]}.qkv.{match[3]}", {})[match[2]] = tensor
        else:
            weights[new] = tensor
    for name, three in merged.items():
        weights[name] = torch.cat([three[key] for key in "qkv" if key in three])
    if residual:
        spec["refiners"] = sum(
            1 for name in weights if re.fullmatch(r"refiners\.\d+\.weight", name)
        )
    return Converted(spec, weights)


def _tokenizer_name(name: str, levels: int, blocks: int) -> str | None:
    """flexvar's name of a tokenizer's tensor; None for buffers that are no weights."""
    if name in ("quantize.codebook_used", "quantize.ema_vocab_hit_SV"):
        return None
    if name == "quantize.embedding.weight":
        return "codebook.weight"
    if match := re.fullmatch(r"quantize\.quant_resi\.(?:qresi_ls\.)?(\d+)\.(\w+)", name):
        return f"refiners.{match[1]}.{match[2]}"
    if match := re.fullmatch(r"quantize\.quant_resi\.qresi\.(\w+)", name):
        return f"refiners.0.{match[1]}"
    name = re.sub(r"^quant_conv\.", "to_code.", name)
    name = re.sub(r"^post_quant_conv\.", "from_code.", name)
    name = name.replace(".nin_shortcut.", ".shortcut.").replace(".proj_out.", ".out.")
    name = re.sub(r"\.mid\.block_(\d)\.", lambda m: f".middle.{2 * int(m[1]) - 2}.", name)
    name = name.replace(".mid.attn_1.", ".middle.1.").replace(".mid.", ".middle.")
    pattern = (
        r"(encoder|decoder)\.(?:conv_blocks|down|up)\.(\d+)\."
        r"(?:(res|block|attn)\.(\d+)|(downsample|upsample))\.(.+)"
    )
    if match := re.fullmatch(pattern, name):
        side, level_text, kind, number, _, rest = match.groups()
        level = int(level_text)
        # VAR numbers the decoder's levels fine to coarse, flexvar in the order of the data.
        if ".up." in name:
            level = levels - 1 - level
        lowest = level == (levels - 1 if side == "encoder" else 0)
        count = blocks + (side == "decoder")
        if kind is None:
            place = 2 * count if lowest else count
        else:
            place = int(number) * (2 if lowest else 1) + (kind == "attn")
        name = f"{side}.levels.{level}.{place}.{rest}"
    return name


def convert_model(state: Released, scales: Sequence[int] | None) -> tuple[dict[str, Any], State]:
    """Backbone, position, schedule and classes, and the weights, of a transformer's state dict."""
    width, _ = state["word_embed.weight"].shape
    depth = state.count(r"blocks\.(\d+)\.")
    scale = state.get("blocks.0.attn.scale_mul_1H11")
    heads = max(1, width // 64) if scale is None else scale.shape[1]
    if scale is None:
        warnings.warn(
            f"{state.source} has no QK-norm, so it cannot tell its number of heads; {heads} "
            f"heads of {width // heads} channels are taken, as both papers do.",
            stacklevel=3,
        )
    inner = state["blocks.0.ffn.fc1.weight"].shape[0]
    config: dict[str, Any] = {
        "backbone": {
            "name": "transformer",
            "depth": depth,
            "width": width,
            "num_heads": heads,
            "mlp_ratio": inner / width,
            "qk_norm": scale is not None,
            "shared_modulation": "shared_ada_lin.1.weight" in state,
        },
        "num_classes": state["class_emb.weight"].shape[0] - 1,
    }
    table = state["pos_1LC"]
    if table.ndim == 4:
        config["position"] = {"name": "learned2d", "side": table.shape[-1], "resize": "area"}
        config["schedule"] = {"name": "ladder"}
    else:
        grids = _training_list(state, scales)
        config["position"] = {
            "name": "per_scale",
            "grids": grids,
            "step_embedding": "lvl_embed.weight" in state,
        }
        config["schedule"] = {"name": "explicit", "grids": grids}
    weights: State = {}
    for name, tensor in state.items():
        new = _model_name(name)
        if new is None:
            continue
        weights[new] = tensor
    weights["start_embedding"] = state["pos_start"].flatten()
    if table.ndim == 3:
        weights["position.table"] = table[0]
    for name in list(weights):
        if name.endswith(".log_scale"):
            weights[name] = weights[name].flatten()
        elif name.endswith(".modulation_offset"):
            weights[name] = weights[name].reshape(6, -1)
    return config, weights


_MODEL_NAMES = {
    "word_embed": "token_embedding",
    "class_emb": "class_embedding",
    "pos_start": "start_embedding",
    "pos_1LC": "position.table",
    "lvl_embed.weight": "position.step",
    "head_nm.ada_lin.1": "head.modulation",
    "head": "head.logits",
    "shared_ada_lin.1": "backbone.shared_modulation",
}
_BLOCK_NAMES = {
    "ada_lin.1": "modulation",
    "ada_gss": "modulation_offset",
    "attn.mat_qkv": "attention.qkv",
    "attn.q_bias": "attention.q_bias",
    "attn.v_bias": "attention.v_bias",
    "attn.scale_mul_1H11": "attention.log_scale",
    "attn.proj": "attention.out",
    "ffn.fc1": "mlp_in",
    "ffn.fc2": "mlp_out",
}


def _model_name(name: str) -> str | None:
    """flexvar's name of a transformer's tensor; None for buffers that are no weights."""
    if name in ("attn_bias_for_masking", "lvl_1L") or name.endswith("attn.zero_k_bias"):
        return None
    prefix, names, rest = "", _MODEL_NAMES, name
    if match := re.match(r"blocks\.(\d+)\.(.+)", name):
        prefix, names, rest = f"backbone.blocks.{match[1]}.", _BLOCK_NAMES, match[2]
    for old, new in names.items():
        if rest == old or rest.startswith(f"{old}."):
            return prefix + new + rest[len(old) :]
    return name


def _training_list(state: Released, scales: Sequence[int] | None) -> list[int]:
    """Sides of the grids a VAR transformer was trained on."""
    length = state["pos_1LC"].shape[1]
    count = len(state["lvl_embed.weight"]) if "lvl_embed.weight" in state else None
    if scales is not None:
        if sum(side * side for side in scales) != length or count not in (None, len(scales)):
            steps = "" if count is None else f" in {count} scales"
            raise FlexvarError(
                f"--scales {','.join(map(str, scales))} has {sum(s * s for s in scales)} tokens in "
                f"{len(scales)} scales; the file has {length}{steps}."
            )
        return list(scales)
    if "lvl_1L" in state:
        _, cells = state["lvl_1L"].flatten().unique_consecutive(return_counts=True)
        return [isqrt(int(number)) for number in cells]
    for known in VAR_LISTS:
        if sum(side * side for side in known) == length and count in (None, len(known)):
            return list(known)
    found: list[list[int]] = []
    if count is not None:
        found = [[1, *rest] for rest in islice(_lists(length - 1, count - 1, 1), 2)]
    if len(found) == 1:
        return found[0]
    several = f", for example {found[0]} or {found[1]}" if found else ""
    raise FlexvarError(
        f"The file has {length} positions but cannot tell its list of scales{several}; give it, "
        "for example --scales 1,2,3,4,5,6,8,10,13,16."
    )


def _lists(cells: int, count: int, above: int) -> Iterator[list[int]]:
    """Rising lists of ``count`` sides over ``above`` whose squares sum to ``cells``."""
    if count == 0:
        if cells == 0:
            yield []
        return
    for side in range(above + 1, isqrt(max(cells, 0)) + 1):
        if sum((side + more) ** 2 for more in range(count)) > cells:
            return
        for rest in _lists(cells - side * side, count - 1, side):
            yield [side, *rest]


def _check_pair(model: Released, tokenizer: Released) -> None:
    """Raise unless a transformer speaks of the tokenizer's codes."""
    vocab_size, code_dim = tokenizer["quantize.embedding.weight"].shape
    for what, ours, theirs in (
        ("vocabulary", model["head.weight"].shape[0], vocab_size),
        ("code dimension", model["word_embed.weight"].shape[1], code_dim),
    ):
        if ours != theirs:
            raise CheckpointError(
                f"These files do not belong together: the model has a {what} of {ours}, the "
                f"tokenizer of {theirs}."
            )
