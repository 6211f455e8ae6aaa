"""Prompts -> features of one length: words by an encoder, tensors as they are."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from flexvar.errors import FlexvarError

HOST: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}


def features(
    value: Any, most: int, channels: int, encode: Callable[[str], tuple[Tensor, int]]
) -> Tensor:
    """The features (tokens, C), fp32, of one prompt, no more than ``most`` tokens; of None none.

    encode: what makes the first features of words, and says how many tokens they have in all.
    Raises `FlexvarError` for what is neither words nor a (tokens, C) tensor; warns if some are cut.
    """
    if value is None:
        return torch.zeros(0, channels, **HOST)
    if isinstance(value, str):
        features_TC, length = encode(value)
    elif isinstance(value, Tensor):
        if value.ndim != 2 or value.shape[1] != channels:
            raise FlexvarError(
                f"prompt: got a tensor of shape {tuple(value.shape)}; expected (tokens, "
                f"{channels}), the features of one prompt."
            )
        if not bool(value.isfinite().all()):
            raise FlexvarError("prompt: a tensor of features holds numbers that are not finite")
        features_TC, length = value.detach().float().cpu()[:most], len(value)
    else:
        raise FlexvarError(
            f"prompt: got {value!r}; expected words, a (tokens, {channels}) tensor of "
            "features, or None for no condition. Class numbers go into labels."
        )
    if length > most:
        shown = f"{value[:40]!r}..." if isinstance(value, str) else "a tensor"
        warnings.warn(
            f"The prompt {shown} has {length} tokens; the first {most} are taken, which is "
            "what the model was made for.",
            stacklevel=4,
        )
    return features_TC


def stacked(rows: Sequence[Tensor], most: int, channels: int) -> tuple[Tensor, Tensor]:
    """Features (B,most,C) fp32, zeros behind each prompt, and a mask (B,most) of what is there."""
    features_BTC = torch.zeros(len(rows), most, channels, **HOST)
    mask_BT = torch.zeros(len(rows), most, dtype=torch.bool, device="cpu")
    for row, features_TC in enumerate(rows):
        features_BTC[row, : len(features_TC)] = features_TC
        mask_BT[row, : len(features_TC)] = True
    return features_BTC, mask_BT
