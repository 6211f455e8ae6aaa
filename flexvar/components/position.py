"""What a position embedding must do: say where the tokens of a layout stand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from torch import Tensor

from flexvar.config import ComponentConfig
from flexvar.layout import Layout


@dataclass(frozen=True, slots=True)
class Position:
    """Where the tokens of a layout stand.

    add_LD: added to the token embeddings by the model. rotate_LR: angles in radians by which a
    backbone rotates R pairs of channels of every query and key; R is at most head_dim // 2.
    """

    add_LD: Tensor | None = None
    rotate_LR: Tensor | None = None


@runtime_checkable
class PositionEmbedding(Protocol):
    """Where tokens stand.

    ``layouts`` is None if it takes any layout, else the only ones it knows; ``forward`` raises
    a `FlexvarError` for others. ``provides`` is ``{"add"}``, ``{"rotate"}`` or both.

    Optional: ``any_layout()``, an embedding with the same weights that takes any layout, where
    ``layouts`` names some: for ``any_size=True``, which says that nothing was trained for it.
    """

    Config: ClassVar[type[ComponentConfig]]
    provides: ClassVar[frozenset[str]]
    layouts: tuple[Layout, ...] | None

    def forward(self, layout: Layout) -> Position: ...
