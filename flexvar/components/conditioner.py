"""What a conditioner must do: labels, prompts or pictures -> the vectors a model reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import Tensor

from flexvar.config import ComponentConfig


@dataclass(frozen=True, slots=True)
class Condition:
    """What a model is conditioned on; D is the backbone's width.

    pooled_BD: one vector per image, for AdaLN and the first token. tokens_BTD: a sequence that
    cross-attention reads, if there is one. mask_BT: bool, True where there is a token; None is
    everywhere.
    """

    pooled_BD: Tensor
    tokens_BTD: Tensor | None = None
    mask_BT: Tensor | None = None


@runtime_checkable
class Conditioner(Protocol):
    """What an image is to be of -> `Condition`. An ``nn.Module``.

    ``gives`` is ``{"pooled"}``, or ``{"pooled", "tokens"}`` if it gives a sequence too.
    ``collate`` makes batch-first tensors (one, or a tuple of them) of one value per image on the
    CPU; None is no condition; it raises a `FlexvarError` for a value it does not know. ``null``
    gives inputs of the same shapes without a condition in any row, the same whatever it is made
    of. ``forward`` takes what either of them gave, on the model's device.

    Optional: ``state_name``, the name of its weights in a checkpoint, "conditioner" unless given;
    ``initialise()``, called once when a model is made with fresh weights.
    """

    Config: ClassVar[type[ComponentConfig]]
    gives: ClassVar[frozenset[str]]

    def collate(self, values: Sequence[Any]) -> Any: ...

    def null(self, inputs: Any) -> Any: ...

    def forward(self, inputs: Any) -> Condition: ...


def each(function: Callable[..., Tensor], *inputs: Any) -> Any:
    """A function over the tensors of a conditioner's inputs, which are one tensor or a tuple."""
    if isinstance(inputs[0], tuple):
        return tuple(function(*parts) for parts in zip(*inputs, strict=True))
    return function(*inputs)


def rows(inputs: Any) -> int:
    """How many images a conditioner's inputs are for."""
    first: Tensor = inputs[0] if isinstance(inputs, tuple) else inputs
    return len(first)
