"""A backbone with ``forward`` alone: `flexvar.PrefixBackbone` steps for it."""

import torch
from torch import nn

import flexvar


class MeanMixer(flexvar.PrefixBackbone):
    """Each token sees itself and the mean of all tokens up to the end of its scale."""

    class Config(flexvar.ComponentConfig):
        """Options: blocks, and the width."""

        depth: int = 2
        width: int = 64
        head_dim: int = 64

    def __init__(self, config, *, facts):
        super().__init__(config, facts=facts)
        width = config.width
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(3 * width),
                nn.Linear(3 * width, 2 * width),
                nn.GELU(),
                nn.Linear(2 * width, width),
            )
            for _ in range(config.depth)
        )

    def forward(self, x_BLD, cond_BD, layout, position):
        """Features (B,L,D) of all scales at once."""
        for block in self.blocks:
            parts = [
                x_BLD[:, : part.stop].mean(dim=1, keepdim=True).expand(-1, grid.cells, -1)
                for part, grid in zip(layout.slices, layout, strict=True)
            ]
            past_BLD = torch.cat(parts, dim=1)
            cond_BLD = cond_BD[:, None].expand_as(x_BLD)
            x_BLD = x_BLD + block(torch.cat([x_BLD, past_BLD, cond_BLD], dim=-1))
        return x_BLD
