"""A conditioner of colors: a picture is to be of the given ones."""

import re

import torch
from torch import nn

import flexvar


class Palette(nn.Module):
    """Up to four colors such as ``"#ff8800 #0044aa"``: a token each, and their mean."""

    class Config(flexvar.ComponentConfig):
        """Options of `Palette`. most: colors at most."""

        most: int = 4

    gives = frozenset({"pooled", "tokens"})
    contract_values = ("#ff0000", "#00ff88 #112233 #ffffff")

    def __init__(self, config, *, facts):
        super().__init__()
        self.most = config.most
        self.color = nn.Linear(3, facts.width)
        self.nothing = nn.Parameter(torch.randn(facts.width))

    def collate(self, values):
        """Colors (B,T,3) in [0,1], -1 where there is none; T is always ``most``."""
        rows = torch.full((len(values), self.most, 3), -1.0)
        for row, value in zip(rows, values, strict=True):
            if value is None:
                continue
            found = re.findall(r"#([0-9a-f]{6})\b", value) if isinstance(value, str) else []
            if not 1 <= len(found) <= self.most:
                raise flexvar.FlexvarError(
                    f"palette: got {value!r}; expected 1 to {self.most} colors such as '#ff8800'."
                )
            for place, color in enumerate(found):
                row[place] = torch.tensor(list(bytes.fromhex(color))) / 255
        return rows

    def null(self, inputs):
        """No color in any row."""
        return torch.full_like(inputs, -1.0)

    def forward(self, inputs):
        """A token per color, masked where there is none, and the mean of those there are."""
        mask = inputs[..., 0] >= 0
        tokens = self.color(inputs.clamp_min(0).to(self.color.weight.dtype)) * mask[..., None]
        pooled = self.nothing + tokens.sum(1) / mask.sum(1, keepdim=True).clamp_min(1)
        return flexvar.Condition(pooled, tokens, mask)
