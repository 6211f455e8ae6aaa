"""State dicts of VAR's and FlexVAR's transformers under flexvar's names."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from math import isqrt
from typing import Any

from torch import Tensor

from flexvar.components.converter import ReleasedState
from flexvar.errors import CheckpointError, FlexvarError

State = dict[str, Tensor]

# Lists of VAR's released models, for files that cannot tell: 256 px and 512 px.
VAR_LISTS = ((1, 2, 3, 4, 5, 6, 8, 10, 13, 16), (1, 2, 3, 4, 6, 9, 13, 18, 24, 32))
MOST_PLACES, MOST_TRIES = 10_000, 200_000


def convert_model(
    state: ReleasedState, scales: Sequence[int] | None
) -> tuple[dict[str, Any], State]:
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


def _training_list(state: ReleasedState, scales: Sequence[int] | None) -> list[int]:
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
        found = [[1, *rest] for rest in islice(_lists(length - 1, count - 1, 1, [MOST_TRIES]), 2)]
    if len(found) == 1:
        return found[0]
    several = f", for example {found[0]} or {found[1]}" if found else ""
    raise FlexvarError(
        f"The file has {length} positions but cannot tell its list of scales{several}; give it, "
        "for example --scales 1,2,3,4,5,6,8,10,13,16."
    )


def _lists(cells: int, count: int, above: int, budget: list[int]) -> Iterator[list[int]]:
    """Rising lists of ``count`` sides over ``above`` whose squares sum to ``cells``.

    budget: how many sides are tried at most, in a list that all levels count down.
    """
    if count == 0:
        if cells == 0:
            yield []
        return
    for side in range(above + 1, isqrt(max(cells, 0)) + 1):
        budget[0] -= 1
        # The least there can be: count rising sides from this one on.
        last = side + count - 1
        squares = last * (last + 1) * (2 * last + 1) - (side - 1) * side * (2 * side - 1)
        if squares > 6 * cells or budget[0] < 0:
            return
        for rest in _lists(cells - side * side, count - 1, side, budget):
            yield [side, *rest]


def noted_scales(data: Any, state: ReleasedState) -> list[int] | None:
    """The training list that a training checkpoint of VAR notes, if it fits the model."""
    if state["pos_1LC"].ndim != 3:
        return None
    seen: set[int] = set()
    waiting = [data]
    while waiting and len(seen) < MOST_PLACES:
        node = waiting.pop(0)
        if not isinstance(node, Mapping) or id(node) in seen:
            continue
        seen.add(id(node))
        noted = node.get("patch_nums")
        whole = isinstance(noted, list | tuple) and all(type(side) is int for side in noted)
        if noted and whole and sum(side * side for side in noted) == state["pos_1LC"].shape[1]:
            return list(noted)
        waiting += node.values()
    return None


def check_pair(model: ReleasedState, tokenizer: ReleasedState) -> None:
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
