"""Words -> a pooled vector and tokens: a small transformer over a frozen encoder's features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from flexvar import ComponentConfig, Condition, Facts, FlexvarError
from flexvar.components import FrozenEncoder
from flexvar.ops.linear import Linear
from flexvar_plugins.conditioners import encoders, prompts
from flexvar_plugins.conditioners.encoders import EncoderName, MissingEncoderError
from flexvar_plugins.conditioners.prompts import HOST
from flexvar_plugins.conditioners.words import plain

Inputs = tuple[Tensor, Tensor]


class TextConfig(ComponentConfig):
    """Options of `TextConditioner`.

    encoder: ``wordllama``, word vectors that come with the package of that name; ``hf``, any
    encoder that transformers loads from ``source``, a directory or hub id; ``embeddings``,
    features computed beforehand: given as tensors, or looked up by caption in the safetensors
    file ``source``. max_tokens: what is longer is cut, with a warning. depth, width, num_heads,
    mlp_ratio: of the trainable transformer. channels: of the encoder's features; has to be given
    for ``embeddings`` without a file.
    digest, stored: filled in when a model is made - which encoder it is for, and how many vectors
    and tokens its class names have, which are kept so that labels need no encoder.
    """

    encoder: EncoderName = "wordllama"
    source: str | None = None
    max_tokens: int = Field(default=32, ge=1, le=4096)
    depth: int = Field(default=2, ge=0)
    width: int = Field(default=256, ge=1)
    num_heads: int = Field(default=4, ge=1)
    mlp_ratio: float = Field(default=4.0, gt=0)
    channels: int | None = Field(default=None, ge=1)
    digest: str | None = None
    stored: tuple[int, int] | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is no multiple of num_heads {self.num_heads}")
        if self.encoder == "hf" and self.source is None:
            raise ValueError("encoder hf needs a source, a directory or hub id of a text encoder")
        if self.encoder == "embeddings" and self.source is None and self.channels is None:
            raise ValueError("encoder embeddings needs channels, or a source with the features")
        return self


class Block(nn.Module):
    """Self-attention and an MLP, each after a layer norm."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        width, inner = config.width, round(config.width * config.mlp_ratio)
        self.heads = config.num_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = Linear(width, 3 * width), Linear(width, width)
        self.mlp_in, self.mlp_out = Linear(width, inner, gelu=True), Linear(inner, width)

    def forward(self, x_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """(B,T,D) -> (B,T,D); nobody looks at a token whose mask is false."""
        q, k, v = self.qkv(self.norm1(x_BTD)).unflatten(-1, (3, self.heads, -1)).unbind(2)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_BT[:, None, None])
        x_BTD = x_BTD + self.out(mixed.transpose(1, 2).flatten(2))
        return x_BTD + self.mlp_out(self.mlp_in(self.norm2(x_BTD)))


class TextConditioner(nn.Module):
    """Words -> what a model reads.

    Inputs are features (B,T,C), T always ``max_tokens``, and a mask (B,T), true where there is a
    token. A learned token that stands before the words, with their mean added, becomes the pooled
    vector; with no words it is alone, which is the null condition. A prompt may be a (tokens, C)
    tensor, features as the encoder gives them.

    The mean of word vectors is where synonyms are near each other, so that the model finds words it
    never saw beside those it did.
    """

    Config: ClassVar[type[ComponentConfig]] = TextConfig
    gives: ClassVar[frozenset[str]] = frozenset({"pooled", "tokens"})
    takes: ClassVar[str] = "prompt"
    contract_options = (
        {"encoder": "embeddings", "channels": 12, "max_tokens": 5, "width": 32, "num_heads": 2},
        {"max_tokens": 6, "width": 32, "num_heads": 2, "depth": 1},
    )

    @staticmethod
    def contract_values(config: TextConfig) -> tuple[Any, Any]:
        """Two prompts for the contract; features where there is no encoder of words."""
        if config.encoder == "embeddings":
            source = torch.Generator("cpu").manual_seed(0)
            shape = 3, config.channels or 1
            return torch.randn(shape, generator=source, **HOST), torch.ones(1, shape[1], **HOST)
        return "a cat", "two small red dogs"

    def __init__(self, config: TextConfig, *, facts: Facts) -> None:
        super().__init__()
        config = self.settled(config, facts)
        assert config.channels is not None
        self.config, self.channels, self.class_names = config, config.channels, facts.class_names
        width = config.width
        self.project = Linear(self.channels, width)
        self.summary = nn.Parameter(torch.empty(width))
        self.place = nn.Parameter(torch.empty(config.max_tokens, width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width)
        self.pooled = Linear(width, facts.width)
        self.tokens = Linear(width, facts.width) if facts.reads_tokens else None
        self.initialise()
        if config.stored is not None:
            vectors, length = config.stored
            # What the names are made of, and where each stands in a name; -1 is no token.
            self.register_buffer("name_vectors", torch.zeros(vectors, self.channels))
            self.register_buffer(
                "name_index", torch.full((len(self._names()), length), -1, dtype=torch.int64)
            )
            if not self.name_index.is_meta:
                self._store_names()

    name_vectors: Tensor
    name_index: Tensor

    @classmethod
    def settled(cls, config: TextConfig, facts: Facts) -> TextConfig:
        """The options with what a checkpoint has to record: channels, digest, stored.

        Raises `FlexvarError` if the encoder here is another one than that of a checkpoint.
        """
        if config.encoder == "embeddings" and config.source is None:
            return config
        try:
            encoder = encoders.load(config.encoder, config.source)
        except MissingEncoderError:
            if config.digest is None or config.channels is None:
                raise
            return config
        if config.digest not in (None, encoder.digest):
            raise FlexvarError(
                f"conditioner.digest: the encoder {config.encoder!r} "
                f"{'' if config.source is None else f'({config.source}) '}here is another one than "
                f"the model was trained with ({encoder.digest[:12]}, trained with "
                f"{(config.digest or '')[:12]}); its words would mean something else. Install the "
                "version it was trained with."
            )
        if config.channels not in (None, encoder.channels):
            raise FlexvarError(
                f"conditioner.channels: got {config.channels}; the encoder {config.encoder!r} has "
                f"{encoder.channels}. Leave it out."
            )
        found = {"channels": encoder.channels, "digest": encoder.digest}
        if config.stored is None and config.encoder == "wordllama" and facts.class_names:
            vectors, index = _gathered(config, facts.class_names)
            found["stored"] = (len(vectors), index.shape[1])
        return config.model_copy(update=found)

    @torch.no_grad()
    def initialise(self) -> None:
        """Fresh weights; `flexvar.NextScaleModel` calls it again."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=1 / math.sqrt(module.in_features))
                nn.init.zeros_(module.bias)
        for block in self.blocks:
            assert isinstance(block, Block)
            for layer in (block.out, block.mlp_out):
                layer.weight.mul_(1 / math.sqrt(2 * len(self.blocks)))
        nn.init.normal_(self.summary)
        nn.init.normal_(self.place, std=0.1)

    def collate(self, values: Sequence[Any]) -> Inputs:
        """Features (B,T,C) fp32 and mask (B,T) of prompts; None and "" are no condition.

        Raises `FlexvarError` for what is neither words nor a (tokens, C) tensor.
        """
        found = [self._features(value) for value in values]
        return prompts.stacked(found, self.config.max_tokens, self.channels)

    def encoder(self) -> FrozenEncoder | None:
        """The text encoder, in fp32 and kept, if words are read by a network."""
        config = self.config
        return encoders.frozen(config.encoder, config.source, torch.float32, released=False)

    def null(self, inputs: Inputs) -> Inputs:
        """No words in any row."""
        return torch.zeros_like(inputs[0]), torch.zeros_like(inputs[1])

    def forward(self, inputs: Inputs) -> Condition:
        """The pooled vector (B,D), and the tokens (B,1+T,D) if the backbone reads them."""
        features_BTC, mask_BT = inputs
        if features_BTC.device.type == "cpu" and not torch.is_grad_enabled():
            # Row by row, as matrix products round by their size: a prompt is the same to the bit
            # whatever others come with it.
            found = [self._read(*one) for one in zip(features_BTC.split(1), mask_BT.split(1),
                                                     strict=True)]  # fmt: skip
            parts = [torch.cat(list(part)) for part in zip(*found, strict=True)]
        else:
            parts = list(self._read(features_BTC, mask_BT))
        pooled_BD, tokens_BTD, seen_BT = parts
        if self.tokens is None:
            return Condition(pooled_BD)
        return Condition(pooled_BD, tokens_BTD, seen_BT)

    def _read(self, features_BTC: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dtype = self.project.weight.dtype
        count_B1 = mask_BT.sum(1, keepdim=True).clamp_min(1)
        mean_BC = (features_BTC * mask_BT[..., None]).sum(1) / count_B1
        words_BTD = self.project(features_BTC.to(dtype)) + self.place[: features_BTC.shape[1]]
        # Scaled as one token is: a mean of many vectors is shorter than each of them.
        mean_BD = self.project((mean_BC * count_B1.sqrt()).to(dtype)) * (mask_BT.any(1)[:, None])
        x_BTD = torch.cat([(self.summary + mean_BD)[:, None], words_BTD], dim=1)
        seen_BT = torch.cat([torch.ones_like(mask_BT[:, :1]), mask_BT], dim=1)
        for block in self.blocks:
            x_BTD = block(x_BTD, seen_BT)
        x_BTD = self.norm(x_BTD)
        pooled_BD = self.pooled(x_BTD[:, 0])
        if self.tokens is None:
            return pooled_BD, x_BTD[:, :0], seen_BT
        return pooled_BD, self.tokens(x_BTD) * seen_BT[..., None], seen_BT

    def _features(self, value: Any) -> Tensor:
        """The features (tokens, C) of a prompt, no more than ``max_tokens`` of them."""
        config = self.config

        def encode(words: str) -> tuple[Tensor, int]:
            text = words.strip() if config.encoder == "embeddings" else plain(words)
            if not text:
                return torch.zeros(0, self.channels, **HOST), 0
            try:
                return encoders.encoded(config.encoder, config.source, text, config.max_tokens)
            except MissingEncoderError as error:
                return self._stored(words, error), 0

        return prompts.features(value, config.max_tokens, self.channels, encode)

    def _names(self) -> tuple[str, ...]:
        return self.class_names or ()

    @torch.no_grad()
    def _store_names(self) -> None:
        """Keep what the class names are made of, if the encoder is here; else a file brings it."""
        try:
            vectors, index = _gathered(self.config, self._names())
        except MissingEncoderError:
            return
        self.name_vectors.copy_(vectors)
        self.name_index.copy_(index)

    def _stored(self, text: str, error: MissingEncoderError) -> Tensor:
        """The features of a class name as the checkpoint holds them; other words raise."""
        if self.config.stored is None or text not in self._names():
            some = ", ".join(self._names()[:10])
            hint = f" Without it, the names that the model knows work: {some}, ..." if some else ""
            raise FlexvarError(f"prompt: got {text!r}. {error}.{hint}") from None
        index = self.name_index[self._names().index(text)].cpu()
        return self.name_vectors.float().cpu()[index[index >= 0]]


def _gathered(config: TextConfig, names: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Vectors (U,C) of which all names are made, and which stand in each name: (names, tokens)."""
    own = config.encoder, config.source
    found = [encoders.encoded(*own, plain(name), config.max_tokens)[0] for name in names]
    length = max(1, *(len(one) for one in found))
    every = torch.cat(found)
    vectors_UC, inverse = every.unique(dim=0, return_inverse=True)
    index = torch.full((len(names), length), -1, dtype=torch.int64, device="cpu")
    for row, part in zip(index, inverse.split([len(one) for one in found]), strict=True):
        row[: len(part)] = part
    return vectors_UC, index
