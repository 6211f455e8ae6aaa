"""State dicts of VAR's, FlexVAR's and LlamaGen's tokenizers under flexvar's names."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from flexvar.components.converter import ReleasedState
from flexvar.errors import CheckpointError

State = dict[str, Tensor]


def convert_tokenizer(state: ReleasedState) -> tuple[dict[str, Any], State]:
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
    return spec, weights


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
