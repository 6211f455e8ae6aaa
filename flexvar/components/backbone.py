"""What a backbone must do: the network between token embeddings and logits, causal over scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from pydantic import Field
from torch import Tensor, nn

from flexvar.components.facts import Facts
from flexvar.components.position import Position
from flexvar.config import ComponentConfig
from flexvar.layout import Layout


@runtime_checkable
class Backbone(Protocol):
    """The network between token embeddings and logits, causal over scales.

    A token sees its own scale and all earlier ones. ``forward`` takes all scales at once;
    ``start`` and ``step`` take them one by one and give the same outputs. ``accepts`` names
    what it does with positions: ``{"rotate"}`` if it rotates queries and keys.

    To be sharded block by block (FSDP2), a backbone names the classes of its blocks in
    ``_no_split_modules``, as transformers' models do; each block's weights are then used within
    its own ``forward`` only. Without it the backbone is sharded as a whole.

    Optional: ``checkpoint_activations()``, called once, from which on training keeps no
    activations inside blocks and computes them again; ``implementation() -> str``, the kernel that
    runs with the weights as they are; ``compile_regions(wrap) -> int``, which puts
    ``wrap(function)``, a compiled one, in place of functions of its blocks that are pure and take
    any number of tokens, with None the functions themselves again, and says how many they are
    (`flexvar.Pipeline.compile`). A state that is no nesting of dataclasses, lists, tuples and
    mappings has a ``fork()``, which gives a second copy.
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
