"""What a tokenizer must do: image <-> pyramid of token maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor, nn

from flexvar.components.facts import TokenSpace
from flexvar.config import ComponentConfig
from flexvar.layout import Grid, Layout


@runtime_checkable
class Tokenizer(Protocol):
    """Image <-> pyramid of token maps. Images are (B,3,H,W) in [-1,1].

    ``encode`` is deterministic and equals ``quantize(features(image), layout)``. A map is (B,h,w)
    int64, or (B,h,w,G) where a token has G parts (`TokenSpace.groups`). ``fold`` is where
    tokenizers differ in what a scale means: it returns the latent after scale ``step``, given the
    latent before it (None at step 0) and the codes of this scale, (B,C,h,w); codes rather than
    indices, so that mixtures of codes pass too. ``resize`` makes the next scale's input of that
    latent. ``decode`` gives (B,3,H,W) about [-1,1], not clamped, with H = stride * h.

    Optional, for objectives that show a model other tokens than the true ones:
    ``next_map(latent_BChw, folded_BChw, layout, step)``, the map that ``quantize`` would give at
    a step if the coarser scales had come out as ``folded_BChw`` (None at step 0). A tokenizer
    whose scales do not depend on the coarser ones needs none.

    Optional: ``decode_tiles(latent_BChw, cells) -> Tensor``, the picture decoded in pieces of so
    many cells a side, by a tokenizer that knows better than overlapping and blending.
    """

    Config: ClassVar[type[ComponentConfig]]
    space: TokenSpace

    def features(self, image_B3HW: Tensor) -> Tensor: ...

    def quantize(self, latent_BChw: Tensor, layout: Layout) -> tuple[Tensor, ...]: ...

    def encode(self, image_B3HW: Tensor, layout: Layout) -> tuple[Tensor, ...]: ...

    def lookup(self, tokens: Tensor) -> Tensor: ...

    def fold(
        self, latent_BChw: Tensor | None, code_BChw: Tensor, layout: Layout, step: int
    ) -> Tensor: ...

    def resize(self, latent_BChw: Tensor, grid: Grid) -> Tensor: ...

    def decode(self, latent_BChw: Tensor) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class TokenizerOutput:
    """What a training pass of a tokenizer gives.

    reconstructions: pictures (B,3,H,W), about [-1,1], each to be compared with the image resized
    to its size; the last one has the image's own size. maps: the chosen tokens of each grid asked
    for, (B,h,w) or (B,h,w,G) int64. vectors: what was compared with the codes, (B,C,h,w) fp32
    without gradient, one per map; a tokenizer without a codebook needs none. codebook_loss pulls
    codes to the vectors, commitment_loss vectors to the codes; losses: whatever else there is, by
    name, for example ``{"entropy": ...}``. All are scalars, and a recipe weights them by name.
    """

    reconstructions: tuple[Tensor, ...]
    maps: tuple[Tensor, ...]
    vectors: tuple[Tensor, ...] = ()
    codebook_loss: Tensor | None = None
    commitment_loss: Tensor | None = None
    losses: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def auxiliary(self) -> dict[str, Tensor]:
        """All its losses by name: ``codebook`` and ``commitment`` if it has them, and the rest."""
        first = {"codebook": self.codebook_loss, "commitment": self.commitment_loss}
        return {name: loss for name, loss in first.items() if loss is not None} | dict(self.losses)


@runtime_checkable
class TrainableTokenizer(Tokenizer, Protocol):
    """A tokenizer that stage 1 of training can train.

    ``forward`` encodes an image (B,3,H,W) at the given grids - the last is the latent's own -
    and decodes with gradients straight through the choice of tokens; without ``quantize`` it
    decodes the continuous latent, and the losses of codes are 0. ``codes`` is the codebook itself,
    (V,C), or (G,V,C/G) for G codebooks that share the channels: data initialisation and revival
    of unused codes write ``vectors`` into it. None has no codebook to start or revive.
    """

    codes: nn.Parameter | None

    def forward(
        self, image_B3HW: Tensor, grids: Sequence[Grid], *, quantize: bool = True
    ) -> TokenizerOutput: ...
