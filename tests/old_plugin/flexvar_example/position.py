"""A position embedding that is a sum of three ramps."""

import torch
from torch import nn

import flexvar


class Ramp(nn.Module):
    """Row, column and size of the grid, each times a learned vector; any layout."""

    class Config(flexvar.ComponentConfig):
        """Options: none."""

    provides = frozenset({"add"})
    layouts = None

    def __init__(self, config, *, facts):
        super().__init__()
        self.row = nn.Parameter(torch.randn(facts.width))
        self.column = nn.Parameter(torch.randn(facts.width))
        self.size = nn.Parameter(torch.randn(facts.width))

    def forward(self, layout):
        """add_LD of a layout; rows and columns run over the open interval (0,1)."""
        parts = []
        for h, w in layout:
            like = self.row
            rows = (torch.arange(h, device=like.device, dtype=like.dtype) + 0.5) / h
            columns = (torch.arange(w, device=like.device, dtype=like.dtype) + 0.5) / w
            cells = rows[:, None, None] * self.row + columns[:, None] * self.column
            parts.append((cells + self.size / (h * w)).flatten(0, 1))
        return flexvar.Position(add_LD=torch.cat(parts))
