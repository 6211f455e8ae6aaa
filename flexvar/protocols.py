"""What each kind of component must do, and the values that pass between them.

A component is a class with a nested ``Config`` (a `flexvar.ComponentConfig`), made as
``Component(config, *, facts)``. Tokenizers, backbones and position embeddings are
``torch.nn.Module``s. Modules hold no state between calls: what one generation needs is in the
state object that ``start`` returns and the caller owns.

Beside its options, a tokenizer's ``Config`` has the attribute ``space`` (a `TokenSpace`), and a
backbone's the attributes ``width`` and ``head_dim`` - as fields or properties - so that parts
are checked against each other before any weight is made.

A whole third-party backbone, on `PrefixBackbone`::

    class MeanMixer(flexvar.PrefixBackbone):
        def __init__(self, config, *, facts):
            super().__init__(config, facts=facts)
            self.mix = torch.nn.Linear(config.width, config.width)

        def forward(self, x_BLD, cond_BD, layout, position):
            mean = x_BLD[:, :1] + cond_BD[:, None]     # nothing from a later scale
            return x_BLD + self.mix(mean)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from flexvar.config import ComponentConfig
from flexvar.layout import Grid, Layout

Rng = random.Random | np.random.Generator | torch.Generator


@dataclass(frozen=True, slots=True)
class TokenSpace:
    """What a tokenizer's tokens are.

    vocab_size: number of codes V. code_dim: length C of a code. stride: pixels per latent cell.
    """

    vocab_size: int
    code_dim: int
    stride: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What a component is told at build time beside its own options.

    For a tokenizer alone ``width``, ``head_dim`` and ``num_classes`` are 0.
    """

    vocab_size: int
    code_dim: int
    width: int
    head_dim: int
    num_classes: int


@dataclass(frozen=True, slots=True)
class Position:
    """Where the tokens of a layout stand.

    add_LD: added to the token embeddings by the model. rotate_LR: angles in radians by which a
    backbone rotates R pairs of channels of every query and key; R is at most head_dim // 2.
    """

    add_LD: Tensor | None = None
    rotate_LR: Tensor | None = None


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


@runtime_checkable
class Backbone(Protocol):
    """The network between token embeddings and logits, causal over scales.

    A token sees its own scale and all earlier ones. ``forward`` takes all scales at once;
    ``start`` and ``step`` take them one by one and give the same outputs. ``accepts`` names
    what it does with positions: ``{"rotate"}`` if it rotates queries and keys.
    """

    Config: ClassVar[type[ComponentConfig]]
    width: int
    head_dim: int
    accepts: ClassVar[frozenset[str]]

    def forward(
        self, x_BLD: Tensor, cond_BD: Tensor, layout: Layout, position: Position
    ) -> Tensor: ...

    def start(self, cond_BD: Tensor, layout: Layout, position: Position) -> Any: ...

    def step(self, x_BLD: Tensor, state: Any) -> Tensor: ...


@runtime_checkable
class PositionEmbedding(Protocol):
    """Where tokens stand.

    ``layouts`` is None if it takes any layout, else the only ones it knows; ``forward`` raises
    a `FlexvarError` for others. ``provides`` is ``{"add"}``, ``{"rotate"}`` or both.
    """

    Config: ClassVar[type[ComponentConfig]]
    provides: ClassVar[frozenset[str]]
    layouts: tuple[Layout, ...] | None

    def forward(self, layout: Layout) -> Position: ...


@runtime_checkable
class StepSchedule(Protocol):
    """The list of grids that leads to a size.

    ``grids(last)`` is deterministic; it starts at 1x1, ends with ``last``, never shrinks in
    either side and repeats no grid. ``steps`` asks for that many grids and raises a
    `FlexvarError` naming the most there can be if there are not that many. With ``rng`` it is
    a random layout for training.
    """

    Config: ClassVar[type[ComponentConfig]]

    def grids(self, last: Grid, *, steps: int | None = None, rng: Rng | None = None) -> Layout: ...


def uniform(rng: Rng) -> Callable[[], float]:
    """A function that draws numbers in [0,1) from any of the usual random sources."""
    if isinstance(rng, torch.Generator):
        return lambda: float(torch.rand((), generator=rng, device=rng.device))
    return lambda: float(rng.random())


def sample(items: Sequence[int], count: int, draw: Callable[[], float]) -> list[int]:
    """``count`` of ``items`` without replacement, in rising order."""
    keys = sorted(range(len(items)), key=[draw() for _ in items].__getitem__)
    return sorted(items[index] for index in keys[:count])


@dataclass(slots=True)
class PrefixState:
    """What `PrefixBackbone` keeps of one generation: all inputs so far."""

    cond_BD: Tensor
    layout: Layout
    position: Position
    prefix_BLD: Tensor | None = None
    scale: int = 0


class PrefixConfig(ComponentConfig):
    """Options that every `PrefixBackbone` has: width D, and channels of a head."""

    width: int = Field(default=64, ge=1)
    head_dim: int = Field(default=64, ge=1)


class PrefixBackbone(nn.Module):
    """A backbone that needs only ``forward``: ``step`` runs it again over the whole prefix.

    Slower than a backbone with a state of its own, and right. A subclass with more options
    gives itself a ``Config`` that derives from `PrefixConfig`.
    """

    Config: ClassVar[type[ComponentConfig]] = PrefixConfig
    accepts: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, config: Any, *, facts: Facts) -> None:
        super().__init__()
        self.config = config
        self.width = facts.width
        self.head_dim = facts.head_dim

    def forward(self, x_BLD: Tensor, cond_BD: Tensor, layout: Layout, position: Position) -> Tensor:
        """The outputs (B,L,D) of all scales of ``layout`` at once."""
        raise NotImplementedError(f"{type(self).__name__} has to define forward")

    def start(self, cond_BD: Tensor, layout: Layout, position: Position) -> PrefixState:
        """A fresh state for generating ``layout`` under a condition (B,D)."""
        return PrefixState(cond_BD, layout, position)

    def step(self, x_BLD: Tensor, state: PrefixState) -> Tensor:
        """The outputs of the next scale, (B, tokens of that scale, D)."""
        before = state.prefix_BLD
        prefix_BLD = x_BLD if before is None else torch.cat([before, x_BLD], dim=1)
        state.prefix_BLD = prefix_BLD
        state.scale += 1
        layout = Layout(state.layout.grids[: state.scale])
        length, rotate_LR = layout.tokens, state.position.rotate_LR
        position = Position(rotate_LR=None if rotate_LR is None else rotate_LR[:length])
        return self(prefix_BLD, state.cond_BD, layout, position)[:, -x_BLD.shape[1] :]
