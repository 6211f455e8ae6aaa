"""Features of words -> a vector by attention, and tokens: what Infinity reads of a prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from flexvar_plugins.conditioners import encoders, prompts
from flexvar_plugins.conditioners.prompts import HOST
from pydantic import Field, model_validator
from torch import Tensor, nn

from flexvar import ComponentConfig, Condition, Facts, FlexvarError
from flexvar.components import FrozenEncoder
from flexvar.ops.linear import Linear

Inputs = tuple[Tensor, Tensor, Tensor]
# Channels of the features that share a query of the pool; half of it in very wide models.
POOL_CHANNELS, WIDE = 128, 4096


class AttentionPoolConfig(ComponentConfig):
    """Options of `AttentionPoolConditioner`.

    encoder: ``hf``, the last hidden states of an encoder that transformers loads from ``source``,
    a directory or hub id; ``embeddings``, features computed beforehand: given as tensors, or looked
    up by caption in the safetensors file ``source``. channels: of the features. max_tokens: what is
    longer is cut, with a warning. pool_heads: queries of the pool, channels / 128 unless given.
    dtype: of the encoder's weights. release: give its memory back after every request.
    """

    encoder: Literal["hf", "embeddings"] = "hf"
    source: str | None = None
    channels: int = Field(default=2048, ge=1)
    max_tokens: int = Field(default=512, ge=1, le=4096)
    pool_heads: int | None = Field(default=None, ge=1)
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    release: bool = True

    @model_validator(mode="after")
    def _has_a_source(self) -> Self:
        if self.encoder == "hf" and self.source is None:
            raise ValueError("encoder hf needs a source, a directory or hub id of a text encoder")
        return self

    def heads(self, width: int) -> int:
        """Queries of the pool in a model of a width."""
        share = POOL_CHANNELS if width <= WIDE else POOL_CHANNELS // 2
        return self.pool_heads or max(1, self.channels // share)


class AttentionPool(nn.Module):
    """One vector (B,D) of all tokens: a learned query per head looks at them."""

    def __init__(self, channels: int, width: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(heads, width // heads))
        self.key_value = Linear(channels, 2 * width, bias=False)
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.out = Linear(width, width)

    def forward(self, x_BTC: Tensor, mask_BT: Tensor) -> Tensor:
        """(B,T,C) -> (B,D); nobody looks at a token whose mask is false."""
        k, v = self.key_value(x_BTC).chunk(2, dim=-1)
        q = self.query[None, :, None].expand(len(x_BTC), -1, -1, -1)
        split = (len(self.query), -1)
        k, v = (x.unflatten(-1, split).transpose(1, 2) for x in (k, v + self.v_bias))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_BT[:, None, None])
        return self.out(mixed.flatten(1))


class AttentionPoolConditioner(nn.Module):
    """What Infinity reads of a prompt (arXiv 2412.04431, section 3.1, and its code).

    Inputs are features (B,T,C), T always ``max_tokens``, a mask (B,T), true where there is a token,
    and (B) true where there is no condition. Features pass an RMS norm; an attention pool makes the
    vector of them, two linear layers the tokens. No condition is a learned table: of a prompt's
    null its first rows, as many as the prompt has tokens; of None and blanks the first alone.
    A prompt may be a (tokens, C) tensor.
    """

    Config: ClassVar[type[ComponentConfig]] = AttentionPoolConfig
    gives: ClassVar[frozenset[str]] = frozenset({"pooled", "tokens"})
    takes: ClassVar[str] = "prompt"
    contract_options = (
        {"encoder": "embeddings", "channels": 12, "max_tokens": 5, "pool_heads": 2},
    )

    @staticmethod
    def contract_values(config: AttentionPoolConfig) -> tuple[Any, Any]:
        """Two prompts of one token: null has the length of what it is made of."""
        source = torch.Generator("cpu").manual_seed(0)
        shape = 1, config.channels
        return torch.randn(shape, generator=source, **HOST), torch.ones(shape, **HOST)

    def __init__(self, config: AttentionPoolConfig, *, facts: Facts) -> None:
        super().__init__()
        self.config, width, channels = config, facts.width, config.channels
        heads = config.heads(width)
        if width % heads:
            raise FlexvarError(
                f"conditioner.pool_heads: {heads} queries do not divide the width {width}; give a "
                "number that does."
            )
        self.norm = nn.RMSNorm(channels, eps=1e-6)
        self.null_table = nn.Parameter(torch.empty(config.max_tokens, channels))
        self.pool = AttentionPool(channels, width, heads)
        self.tokens = None
        if facts.reads_tokens:
            self.tokens = nn.Sequential(Linear(channels, width, gelu=True), Linear(width, width))
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Fresh weights; `flexvar.NextScaleModel` calls it again."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=1 / math.sqrt(module.in_features))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.null_table)
        nn.init.normal_(self.pool.query)

    def collate(self, values: Sequence[Any]) -> Inputs:
        """Features, mask and where there is no condition, of prompts; None is no condition.

        Raises `FlexvarError` for what is neither words nor a (tokens, C) tensor.
        """
        config = self.config
        try:
            most = config.max_tokens
            rows = [prompts.features(one, most, config.channels, self._encode) for one in values]
        finally:
            if config.release:
                encoders.release()
        features_BTC, mask_BT = prompts.stacked(rows, config.max_tokens, config.channels)
        null_B = ~mask_BT[:, 0]
        mask_BT[:, 0] = True
        return features_BTC, mask_BT, null_B

    def encoder(self) -> FrozenEncoder | None:
        """The text encoder, if words are read by one."""
        config = self.config
        dtype = getattr(torch, config.dtype)
        return encoders.frozen(config.encoder, config.source, dtype, released=config.release)

    def null(self, inputs: Inputs) -> Inputs:
        """No condition in any row, as long as what is there."""
        features_BTC, mask_BT, null_B = inputs
        return torch.zeros_like(features_BTC), mask_BT, torch.ones_like(null_B)

    def forward(self, inputs: Inputs) -> Condition:
        """The vector (B,D), and the tokens (B,T,D) if the backbone reads them."""
        features_BTC, mask_BT, null_B = inputs
        longest = _longest(mask_BT)
        mask_BT = mask_BT[:, :longest]
        x_BTC = torch.where(
            null_B[:, None, None], self.null_table[:longest].float(), features_BTC[:, :longest]
        )
        x_BTC = self.norm((x_BTC * mask_BT[..., None]).to(self.norm.weight.dtype))
        pooled_BD = self.pool(x_BTC, mask_BT)
        if self.tokens is None:
            return Condition(pooled_BD)
        return Condition(pooled_BD, self.tokens(x_BTC) * mask_BT[..., None], mask_BT)

    def _encode(self, text: str) -> tuple[Tensor, int]:
        config = self.config
        if not text.strip():
            return torch.zeros(0, config.channels, **HOST), 0
        if config.encoder == "embeddings":
            return encoders.encoded("embeddings", config.source, text.strip(), config.max_tokens)
        assert config.source is not None
        found, length = encoders.hidden_states(config.source, config.dtype, text, config.max_tokens)
        if found.shape[1] != config.channels:
            raise FlexvarError(
                f"conditioner.channels: the text encoder {config.source!r} gives {found.shape[1]} "
                f"numbers per token, the model reads {config.channels}; name the encoder it was "
                "trained with as conditioner.source."
            )
        return found, length


def _longest(mask_BT: Tensor) -> int:
    """How many tokens the longest prompt has; all there could be where nothing may be looked at."""
    if torch.compiler.is_compiling() or mask_BT.is_meta:
        return mask_BT.shape[1]
    if mask_BT.is_cuda and torch.cuda.is_current_stream_capturing():
        return mask_BT.shape[1]
    return int(mask_BT.sum(1).max())
