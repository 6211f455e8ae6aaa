"""Class labels: one learned vector per class, and one for no class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexvar import ComponentConfig, Condition, Facts, FlexvarError


class LabelConditioner(nn.Module):
    """A class label -> a learned vector (VAR, arXiv 2404.02905, section 3.2).

    Inputs are int64 labels (B) in [0, num_classes]; ``num_classes`` itself is no class.
    """

    Config: ClassVar[type[ComponentConfig]] = ComponentConfig
    gives: ClassVar[frozenset[str]] = frozenset({"pooled"})
    state_name: ClassVar[str] = "class_embedding"

    def __init__(self, config: ComponentConfig, *, facts: Facts) -> None:
        super().__init__()
        self.num_classes = facts.num_classes
        self.weight = nn.Parameter(torch.empty(facts.num_classes + 1, facts.width))
        nn.init.normal_(self.weight)

    def initialise(self) -> None:
        """Fresh weights, at the scale of the token embedding's."""
        nn.init.trunc_normal_(self.weight, std=math.sqrt(1 / self.weight.shape[1] / 3))

    def collate(self, values: Sequence[Any]) -> Tensor:
        """int64 labels (B) of class numbers; None is no class."""
        for value in values:
            if value is not None and not isinstance(value, int):
                raise FlexvarError(
                    f"label: got {value!r}; expected a class number from 0 to "
                    f"{self.num_classes - 1}, or None."
                )
        numbers = [self.num_classes if v is None else v for v in values]
        return torch.tensor(numbers, dtype=torch.int64, device="cpu")

    def null(self, inputs: Tensor) -> Tensor:
        """No class in any row."""
        return torch.full_like(inputs, self.num_classes)

    def forward(self, inputs: Tensor) -> Condition:
        """One vector per label."""
        return Condition(F.embedding(inputs, self.weight))
