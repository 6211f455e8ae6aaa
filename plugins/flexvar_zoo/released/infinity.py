"""The released files of Infinity -> flexvar checkpoints.

Everything is read from the tensors but what they cannot tell: the size of training, where level
vectors are added, and which text encoder it was. Keys are renamed; queries and keys are reordered
within each head, as rotated pairs of channels are neighbours there and half a head apart here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from flexvar.components.converter import Converted, ReleasedState
from flexvar.config import ComponentConfig
from flexvar.errors import CheckpointError
from flexvar_zoo.released import infinity_tokenizer
from flexvar_zoo.released.infinity_tokenizer import State
from flexvar_zoo.schedules.aspect_lists import LISTS, STEPS

PIXELS = ("0.06M", "0.25M", "0.6M", "1M")
T5, T5_CHANNELS = "google/flan-t5-xl", 2048
PRESETS = {
    "default": {
        "guidance": 3.0,
        "guidance_schedule": "constant",
        "temperature": 0.5,
        "top_p": 0.97,
    }
}
BLOCK = re.compile(r"block_chunks\.(\d+)\.module\.(\d+)\.(.+)")
MODEL_NAMES = {
    "word_embed": "token_embedding",
    "pos_start": "start_embedding",
    "head_nm.ada_lin.1": "head.modulation",
    "head": "head.logits",
    "shared_ada_lin.1": "backbone.shared_modulation",
    "lvl_embed.weight": "backbone.level",
    "cfg_uncond": "conditioner.null_table",
    "text_norm": "conditioner.norm",
    "text_proj_for_ca.0": "conditioner.tokens.0",
    "text_proj_for_ca.2": "conditioner.tokens.1",
    "text_proj_for_sos.ca.mat_q": "conditioner.pool.query",
    "text_proj_for_sos.ca.mat_kv": "conditioner.pool.key_value",
    "text_proj_for_sos.ca.v_bias": "conditioner.pool.v_bias",
    "text_proj_for_sos.ca.proj": "conditioner.pool.out",
}
BLOCK_NAMES = {
    "ada_lin.1": "modulation",
    "ada_gss": "modulation_offset",
    "sa.mat_qkv": "attention.qkv",
    "sa.q_bias": "attention.q_bias",
    "sa.v_bias": "attention.v_bias",
    "sa.scale_mul_1H11": "attention.log_scale",
    "sa.proj": "attention.out",
    "ca.mat_q": "cross.query",
    "ca.mat_kv": "cross.key_value",
    "ca.v_bias": "cross.key_value.bias",
    "ca.proj": "cross.out",
    "ca_norm": "cross.norm",
    "ffn.fc1": "mlp_in",
    "ffn.fc2": "mlp_out",
}
# Buffers that are no weights.
IGNORED = ("attn_bias_for_masking", "lvl_1L")


class InfinityConfig(ComponentConfig):
    """pixels: the size of training, 0.06M (256 px), 0.25M (512 px), 0.6M or 1M (1024 px).

    text_encoder: directory or hub id of the text encoder; google/flan-t5-xl where the model reads
    2048 channels, else none: prompts are features then. level_every_chunk: level vectors are
    added before the first block of every chunk (add_lvl_embeding_only_first_block=0), not of the
    first one alone, as in all released models.
    """

    pixels: Literal["0.06M", "0.25M", "0.6M", "1M"] = "1M"
    text_encoder: str | None = None
    level_every_chunk: bool = False


class InfinityConverter:
    """Tokenizers and transformers of Infinity."""

    Config = InfinityConfig
    reads = "Infinity"

    def __init__(self, config: InfinityConfig) -> None:
        self.config = config

    @classmethod
    def part(cls, state: Mapping[str, Tensor]) -> Literal["tokenizer", "model"] | None:
        """What a state dict is: only these have wrapped convolutions, or a table of no text."""
        if infinity_tokenizer.FIRST in state and "decoder.conv_in.conv.weight" in state:
            return "tokenizer"
        return "model" if "cfg_uncond" in state and "word_embed.weight" in state else None

    def convert(self, tokenizer: ReleasedState, model: ReleasedState | None) -> Converted:
        """Options and weights of the parts."""
        spec, tokenizer_weights = infinity_tokenizer.convert_tokenizer(tokenizer)
        levels = len(spec["channel_multipliers"])
        if model is None:
            # At stride 8 the released models read patches of 2x2 cells.
            spec["patchify"] = 2 if levels == 4 else 1
            return Converted({"tokenizer": spec}, tokenizer_weights)
        spec["patchify"] = self._patchify(spec["code_dim"], tokenizer, model)
        description, weights = self._model(model)
        trained = trained_on(self.config.pixels, 2 ** (levels - 1) * spec["patchify"])
        config = {"tokenizer": spec, **description}
        return Converted(config, tokenizer_weights, weights, PRESETS, trained)

    def _patchify(self, bits: int, tokenizer: ReleasedState, model: ReleasedState) -> int:
        """Cells per side of the model's tokens. Raises for a tokenizer of another model."""
        read = model["word_embed.weight"].shape[1]
        if read not in (bits, 4 * bits):
            raise CheckpointError(
                f"{model.source} reads tokens of {read} bits, and {tokenizer.source} makes {bits} "
                f"a cell: they do not belong together. It needs a tokenizer of {read} bits"
                + (f", or of {read // 4} at half the stride." if read % 4 == 0 else ".")
            )
        names = Path(str(tokenizer.source)).stem, Path(str(model.source)).stem
        if names[0] == "infinity_vae_d32" and "_reg" in names[1]:
            raise CheckpointError(
                f"{model.source} was trained with infinity_vae_d32reg.pth; {tokenizer.source} has "
                "the same shapes, but its bits mean something else. Give the other file."
            )
        return 1 if read == bits else 2

    def _model(self, state: ReleasedState) -> tuple[dict[str, Any], State]:
        width, _ = state["word_embed.weight"].shape
        chunks = state.count(r"block_chunks\.(\d+)\.")
        per_chunk = state.count(r"block_chunks\.0\.module\.(\d+)\.")
        first = "block_chunks.0.module.0."
        heads = state[f"{first}sa.scale_mul_1H11"].shape[1]
        longest, channels = state["cfg_uncond"].shape
        source = self.config.text_encoder or (T5 if channels == T5_CHANNELS else None)
        config = described(
            width=width,
            depth=chunks * per_chunk,
            heads=heads,
            mlp_ratio=state[f"{first}ffn.fc1.weight"].shape[0] / width,
            shared="shared_ada_lin.1.weight" in state,
            levels=len(state["lvl_embed.weight"]),
            level_every=per_chunk if self.config.level_every_chunk else None,
            source=source,
            channels=channels,
            longest=longest,
            pool_heads=state["text_proj_for_sos.ca.mat_q"].shape[1],
        )
        weights: State = {}
        for name, tensor in state.items():
            if name in IGNORED or name.endswith("zero_k_bias"):
                continue
            new = flexvar_name(name, per_chunk)
            weights[new] = shaped(new, tensor, heads)
        return config, weights


def described(
    *,
    width: int,
    depth: int,
    heads: int,
    source: str | None = T5,
    channels: int = T5_CHANNELS,
    longest: int = 512,
    pool_heads: int = 16,
    mlp_ratio: float = 4,
    shared: bool = True,
    levels: int = 15,
    level_every: int | None = None,
) -> dict[str, Any]:
    """Components of a transformer; what is not given is as in the released ones."""
    return {
        "backbone": {
            "name": "transformer",
            "depth": depth,
            "width": width,
            "num_heads": heads,
            "mlp_ratio": mlp_ratio,
            "shared_modulation": shared,
            "cross_attention": True,
            "cross_norm": True,
            "levels": levels,
            "level_every": level_every,
        },
        "position": {"name": "rope2d"},
        "schedule": {"name": "aspect_lists"},
        "conditioner": {
            "name": "attention_pool",
            "encoder": "hf" if source else "embeddings",
            **({"source": source} if source else {}),
            "channels": channels,
            "max_tokens": longest,
            "pool_heads": pool_heads,
        },
    }


def trained_on(pixels: str, stride: int) -> dict[str, Any]:
    """Sizes and steps of training, of a stride in pixels of the model's tokens."""
    count = STEPS[PIXELS.index(pixels)]
    sizes = [(row[count - 1].h * stride, row[count - 1].w * stride) for row in LISTS]
    return {"size": sizes[0], "steps": (count, count), "other_sizes": sizes[1:]}


def flexvar_name(name: str, per_chunk: int) -> str:
    """flexvar's name of a transformer's tensor; one that is not known stays, and is told of."""
    prefix, names, rest = "", MODEL_NAMES, name
    if match := BLOCK.fullmatch(name):
        number = int(match[1]) * per_chunk + int(match[2])
        prefix, names, rest = f"backbone.blocks.{number}.", BLOCK_NAMES, match[3]
    for old, new in names.items():
        if rest == old or rest.startswith(f"{old}."):
            return prefix + new + rest[len(old) :]
    return name


def shaped(name: str, tensor: Tensor, heads: int) -> Tensor:
    """A tensor as flexvar has it."""
    end = name.rpartition(".")[2]
    if name == "start_embedding" or end == "log_scale":
        return tensor.flatten()
    if end == "modulation_offset":
        return tensor.reshape(6, -1)
    if name == "conditioner.pool.query":
        return tensor[0]
    if name.endswith("attention.qkv.weight"):
        q, k, v = tensor.chunk(3)
        return torch.cat([halves(q, heads), halves(k, heads), v])
    if end == "q_bias":
        return halves(tensor, heads)
    if name.endswith("cross.key_value.bias"):
        return torch.cat([torch.zeros_like(tensor), tensor])  # keys have none
    return tensor


def halves(rows: Tensor, heads: int) -> Tensor:
    """Rows of every head with the pairs (2i, 2i+1) as (i, i + half)."""
    return rows.unflatten(0, (heads, -1, 2)).transpose(1, 2).flatten(0, 2)
