"""No condition at all: one learned vector for every image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from flexvar import ComponentConfig, Condition, Facts, FlexvarError


class NoConditioner(nn.Module):
    """The same learned vector for all images: an unconditional model.

    Inputs are int64 zeros (B), which only say how many images there are. Guidance against no
    condition changes nothing; leave it off, as it doubles the work.
    """

    Config: ClassVar[type[ComponentConfig]] = ComponentConfig
    gives: ClassVar[frozenset[str]] = frozenset({"pooled"})
    takes: ClassVar[str] = "nothing"

    def __init__(self, config: ComponentConfig, *, facts: Facts) -> None:
        super().__init__()
        del config
        self.vector = nn.Parameter(torch.empty(facts.width))
        nn.init.trunc_normal_(self.vector, std=math.sqrt(1 / facts.width / 3))

    def collate(self, values: Sequence[Any]) -> Tensor:
        """Zeros (B). Raises `FlexvarError` for a value that is not None."""
        for value in values:
            if value is not None:
                raise FlexvarError(
                    f"condition: got {value!r}; this model makes images of nothing in particular "
                    "(conditioner none). Leave labels and prompts out."
                )
        return torch.zeros(len(values), dtype=torch.int64, device="cpu")

    def null(self, inputs: Tensor) -> Tensor:
        """The same again."""
        return torch.zeros_like(inputs)

    def forward(self, inputs: Tensor) -> Condition:
        """The one vector, for each image."""
        return Condition(self.vector.expand(len(inputs), -1))
