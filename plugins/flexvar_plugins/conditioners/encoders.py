"""Frozen text encoders: words -> (tokens, channels) features. They are no part of a checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import torch
from torch import Tensor

from flexvar.components import FrozenEncoder
from flexvar.errors import FlexvarError, first_line

EncoderName = Literal["wordllama", "hf", "embeddings"]
ENCODERS: tuple[EncoderName, ...] = get_args(EncoderName)
# Encodings that are kept, of which a training set usually has fewer captions.
KEPT = 2**16


class MissingEncoderError(FlexvarError):
    """An encoder that is not installed, or whose files are not there."""


class Encoder(Protocol):
    """Words as features.

    channels: of the features. digest: a text that changes with them. ``encode`` gives (tokens,
    channels) fp32 on the CPU, always the same for the same text, and nothing for "".
    """

    channels: int
    digest: str

    def encode(self, text: str) -> Tensor: ...


class WordVectors:
    """The static token vectors of the package wordllama: 32,000 of 256 numbers, 16 MB.

    They are read from its files; nothing of the package is imported, so nothing asks the network.
    A text's tokens are byte pairs: every script can be written, unknown words are spelled.
    """

    WEIGHTS = "weights/l2_supercat_256.safetensors"
    TOKENIZER = "tokenizers/l2_supercat_tokenizer_config.json"

    def __init__(self) -> None:
        from safetensors.torch import load_file
        from tokenizers import Tokenizer

        spec = find_spec("wordllama")
        assert spec is not None
        assert spec.submodule_search_locations is not None
        folder = Path(spec.submodule_search_locations[0])
        weights, tokenizer = folder / self.WEIGHTS, folder / self.TOKENIZER
        for file in (weights, tokenizer):
            if not file.is_file():
                raise MissingEncoderError(
                    f"conditioner.encoder: this wordllama comes without {file.name}; install the "
                    "version that flexvar knows: pip install 'flexvar[text]'"
                )
        self._vectors_VC = load_file(weights)["embedding.weight"]
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.channels = self._vectors_VC.shape[1]
        self.digest = _digest(weights.read_bytes(), tokenizer.read_bytes())

    def encode(self, text: str) -> Tensor:
        """One vector per token, in order."""
        found = self._tokenizer.encode(text, add_special_tokens=False).ids if text else []
        return self._vectors_VC[torch.tensor(found, dtype=torch.int64, device="cpu")].float()


class TransformersEncoder:
    """Any text encoder that the package transformers loads, frozen: T5, CLIP, BERT.

    Its last hidden states, each normalised to mean 0 and deviation 1.
    """

    def __init__(self, source: str) -> None:
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(source)
            config = AutoConfig.from_pretrained(source)
            model = AutoModel.from_pretrained(source, use_safetensors=True)
        except Exception as error:
            raise MissingEncoderError(
                f"conditioner.source: transformers gives no text encoder for {source!r}: "
                f"{first_line(error)}"
            ) from None
        if getattr(config, "is_encoder_decoder", False):
            model = model.get_encoder()
        model = getattr(model, "text_model", model)
        self._model = model.float().eval().requires_grad_(False)
        hidden = getattr(self._model.config, "hidden_size", None)
        self.channels = int(hidden or self._model.config.d_model)
        weights = sorted(self._model.state_dict().items())
        parts = (w.detach().contiguous().view(torch.uint8).numpy().tobytes() for _, w in weights)
        self.digest = _digest(*parts)

    @torch.inference_mode()
    def encode(self, text: str) -> Tensor:
        """The last hidden state of every token; nothing for no text."""
        if not text:
            return torch.zeros(0, self.channels, dtype=torch.float32, device="cpu")
        most = min(int(self._tokenizer.model_max_length), 4096)
        tokens = self._tokenizer(text, return_tensors="pt", truncation=True, max_length=most)
        hidden_TC = self._model(
            input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
        ).last_hidden_state[0]
        return torch.nn.functional.layer_norm(hidden_TC.float(), hidden_TC.shape[-1:]).clone()


class HiddenStates:
    """The last hidden states of an encoder that transformers loads, as they are: of T5 for one.

    dtype: of its weights, ``float32`` or ``bfloat16``; the states are fp32. Of an encoder-decoder
    only the encoder is loaded where transformers has a class for it.
    """

    def __init__(self, source: str, dtype: str) -> None:
        import transformers

        options = {"dtype": getattr(torch, dtype), "use_safetensors": True}
        try:
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(source)
            config = transformers.AutoConfig.from_pretrained(source)
            model = _encoder_class(config).from_pretrained(source, **options)
        except Exception as error:
            reason = first_line(error)
            raise MissingEncoderError(
                f"conditioner.source: transformers gives no text encoder for {source!r}: {reason}. "
                "Download it where there is a network, or name its directory; features computed "
                "elsewhere, (tokens, channels) tensors, will do in place of words"
            ) from None
        self._model = _encoder_of(model).eval().requires_grad_(False)

    @torch.inference_mode()
    def encode(self, text: str, most: int) -> tuple[Tensor, int]:
        """The states of the first ``most`` tokens (tokens, channels), and how many there are."""
        whole = self._tokenizer(text, verbose=False)["input_ids"]
        ids = self._tokenizer(text, truncation=True, max_length=most, return_tensors="pt")
        hidden = self._model(input_ids=ids["input_ids"], attention_mask=ids["attention_mask"])
        return hidden.last_hidden_state[0].float().clone(), len(whole)


def _encoder_class(config: Any) -> Any:
    """What loads an encoder of a config: of T5's kinds the encoder alone."""
    import transformers

    kind = {"t5": "T5", "mt5": "MT5", "umt5": "UMT5"}.get(config.model_type)
    return getattr(transformers, f"{kind}EncoderModel" if kind else "AutoModel")


def _encoder_of(model: Any) -> Any:
    """The half of an encoder-decoder that reads, or of a model of words and pictures."""
    both = getattr(model, "decoder", None) is not None
    return model.get_encoder() if both else getattr(model, "text_model", model)


@cache
def _hidden_states(source: str, dtype: str) -> HiddenStates:
    return HiddenStates(source, dtype)


@lru_cache(maxsize=1024)
def hidden_states(source: str, dtype: str, text: str, most: int) -> tuple[Tensor, int]:
    """As `HiddenStates.encode`, kept; so is the encoder, until `release`.

    Raises `MissingEncoderError`, which says what to install or give, if it cannot be loaded.
    """
    if find_spec("transformers") is None:
        raise MissingEncoderError(
            "conditioner.encoder: hf needs the package transformers, which is not installed: "
            "pip install transformers sentencepiece"
        )
    return _hidden_states(source, dtype).encode(text, most)


# Weights of encoders that released models name, for plans where their files are not: flan-t5-xl has
# 32,128 tokens, 24 blocks, 2048 channels, 32 heads of 64 and gated layers of 5120.
KNOWN_WEIGHTS = {"google/flan-t5-xl": 1_223_527_424}


@cache
def weights_of(source: str) -> int | None:
    """How many weights a text encoder of transformers has; None where its config is not here."""
    if find_spec("transformers") is None:
        return KNOWN_WEIGHTS.get(source)
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(source, local_files_only=True)
        kind = _encoder_class(config)
        with torch.device("meta"):
            model = getattr(kind, "from_config", kind)(config)
    except Exception:  # whatever its files hold
        return KNOWN_WEIGHTS.get(source)
    return sum(one.numel() for one in _encoder_of(model).parameters())


def frozen(
    encoder: str, source: str | None, dtype: torch.dtype, *, released: bool
) -> FrozenEncoder | None:
    """The network that reads words, its weights held in ``dtype``; None if none does."""
    if encoder != "hf" or source is None:
        return None
    count = weights_of(source)
    return FrozenEncoder(source, None if count is None else count * dtype.itemsize, released)


def release() -> None:
    """Give the memory of the encoders of `hidden_states` back; what they encoded is kept."""
    _hidden_states.cache_clear()


class StoredEmbeddings:
    """Features computed beforehand: a safetensors file of (tokens, channels) tensors by caption."""

    def __init__(self, source: str) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        self.path = Path(source).expanduser()
        try:
            self._features = {name: value.float() for name, value in load_file(self.path).items()}
            self.digest = _digest(self.path.read_bytes())
        except (OSError, SafetensorError, ValueError) as error:
            raise MissingEncoderError(
                f"conditioner.source: {self.path} is no readable safetensors file ({error}). It "
                "holds a (tokens, channels) tensor for each caption, under that caption."
            ) from None
        shapes = {tuple(value.shape[1:]) for value in self._features.values() if value.ndim == 2}
        if len(shapes) != 1 or any(value.ndim != 2 for value in self._features.values()):
            raise MissingEncoderError(
                f"conditioner.source: {self.path} holds tensors of shapes that differ or are not "
                "(tokens, channels), with as many channels in each."
            )
        self.channels = shapes.pop()[0]

    def encode(self, text: str) -> Tensor:
        """The features of a caption. Raises `FlexvarError` for one that is not in the file."""
        if not text:
            return torch.zeros(0, self.channels, dtype=torch.float32, device="cpu")
        if text not in self._features:
            from difflib import get_close_matches

            near = get_close_matches(text, self._features, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise FlexvarError(
                f"prompt: {self.path} has no features of {text!r}.{hint} Give a (tokens, "
                f"{self.channels}) tensor of them in place of the words."
            )
        return self._features[text]


def load(name: EncoderName, source: str | None) -> Encoder:
    """The encoder, loaded once in a process.

    Raises `MissingEncoderError`, which says what to install or give, if it cannot be.
    """
    if name == "wordllama":
        if find_spec("wordllama") is None or find_spec("tokenizers") is None:
            raise MissingEncoderError(
                "Words need the package wordllama, which is not installed: "
                "pip install 'flexvar[text]'"
            )
        return _loaded(WordVectors)
    if name == "hf":
        if find_spec("transformers") is None:
            raise MissingEncoderError(
                "conditioner.encoder: hf needs the package transformers, which is not installed: "
                "pip install transformers"
            )
        return _loaded(TransformersEncoder, source)
    if source is None:
        raise MissingEncoderError(
            "prompt: this model takes features in place of words: a (tokens, channels) tensor."
        )
    return _loaded(StoredEmbeddings, source)


@cache
def _loaded(kind: Callable[..., Encoder], *source: str) -> Encoder:
    return kind(*source)


@lru_cache(maxsize=KEPT)
def encoded(name: EncoderName, source: str | None, text: str, most: int) -> tuple[Tensor, int]:
    """The first ``most`` tokens of a text, (tokens, channels) fp32, and how many it has in all.

    Raises as `load` does, and is kept unless it does.
    """
    features_TC = load(name, source).encode(text)
    return features_TC[:most].clone(), len(features_TC)


def _digest(*parts: bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
