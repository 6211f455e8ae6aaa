"""What a tokenizer must do: image <-> pyramid of token maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from flexvar.components.facts import TokenSpace
from flexvar.config import ComponentConfig
from flexvar.layout import Grid, Layout


@runtime_checkable
class Tokenizer(Protocol):
    """Image <-> pyramid of token maps. Images are (B,3,H,W) in [-1,1].

    ``encode`` is deterministic and equals ``quantize(features(image), layout)``. A map is
    (B,h,w) int64. ``fold`` is where tokenizers differ in what a scale means: it returns the
    latent after scale ``step``, given the latent before it (None at step 0) and the codes of
    this scale, (B,C,h,w); codes rather than indices, so that mixtures of codes pass too.
    ``resize`` makes the next scale's input of that latent. ``decode`` gives (B,3,H,W) about
    [-1,1], not clamped, with H = stride * h.
    """

    Config: ClassVar[type[ComponentConfig]]
    space: TokenSpace

    def features(self, image_B3HW: Tensor) -> Tensor: ...

    def quantize(self, latent_BChw: Tensor, layout: Layout) -> tuple[Tensor, ...]: ...

    def encode(self, image_B3HW: Tensor, layout: Layout) -> tuple[Tensor, ...]: ...

    def lookup(self, index_Bhw: Tensor) -> Tensor: ...

    def fold(
        self, latent_BChw: Tensor | None, code_BChw: Tensor, layout: Layout, step: int
    ) -> Tensor: ...

    def resize(self, latent_BChw: Tensor, grid: Grid) -> Tensor: ...

    def decode(self, latent_BChw: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class TokenizerOutput:
    """What a training pass of a tokenizer gives.

    reconstructions: pictures (B,3,H,W), about [-1,1], each to be compared with the image resized
    to its size; the last one has the image's own size. maps: the chosen codes (B,h,w) int64 of
    each grid asked for. vectors: what was compared with the codes, (B,C,h,w) fp32 without
    gradient, one per map. codebook_loss pulls codes to the vectors, commitment_loss vectors to
    the codes; both are scalars, weighted by the caller.
    """

    reconstructions: tuple[Tensor, ...]
    maps: tuple[Tensor, ...]
    vectors: tuple[Tensor, ...]
    codebook_loss: Tensor
    commitment_loss: Tensor


@runtime_checkable
class TrainableTokenizer(Tokenizer, Protocol):
    """A tokenizer that stage 1 of training can train.

    ``forward`` encodes an image (B,3,H,W) at the given grids - the last is the latent's own -
    and decodes with gradients straight through the choice of codes; without ``quantise`` it
    decodes the continuous latent, and the codebook losses are 0. ``codes`` is the codebook (V,C)
    itself: data initialisation and revival of unused codes write rows of ``vectors`` into it.
    """

    codes: nn.Parameter

    def forward(
        self, image_B3HW: Tensor, grids: Sequence[Grid], *, quantise: bool = True
    ) -> TokenizerOutput: ...
