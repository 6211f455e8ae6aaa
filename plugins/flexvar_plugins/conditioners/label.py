"""Class labels: one learned vector per class, and one for no class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexvar import ComponentConfig, Condition, Facts
from flexvar.components.conditioner import class_number


class LabelConditioner(nn.Module):
    """A class label -> a learned vector (VAR, arXiv 2404.02905, section 3.2).

    Inputs are int64 labels (B) in [0, num_classes]; ``num_classes`` itself is no class.
    """

    Config: ClassVar[type[ComponentConfig]] = ComponentConfig
    gives: ClassVar[frozenset[str]] = frozenset({"pooled"})
    takes: ClassVar[str] = "label"
    state_name: ClassVar[str] = "class_embedding"

    def __init__(self, config: ComponentConfig, *, facts: Facts) -> None:
        super().__init__()
        self.num_classes, self.class_names = facts.num_classes, facts.class_names
        self.weight = nn.Parameter(torch.empty(facts.num_classes + 1, facts.width))
        nn.init.normal_(self.weight)

    def initialise(self) -> None:
        """Fresh weights, at the scale of the token embedding's."""
        nn.init.trunc_normal_(self.weight, std=math.sqrt(1 / self.weight.shape[1] / 3))

    def collate(self, values: Sequence[Any]) -> Tensor:
        """int64 labels (B) of class numbers or names; None, or ``num_classes``, is no class."""
        count, names = self.num_classes, self.class_names
        labels = [v if type(v) is int and v == count else class_number(v, count, names)
                  for v in values]  # fmt: skip
        return torch.tensor(labels, dtype=torch.int64, device="cpu")

    def null(self, inputs: Tensor) -> Tensor:
        """No class in any row."""
        return torch.full_like(inputs, self.num_classes)

    def forward(self, inputs: Tensor) -> Condition:
        """One vector per label."""
        return Condition(F.embedding(inputs, self.weight))
