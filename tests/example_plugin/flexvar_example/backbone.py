"""A backbone with ``forward`` alone: `flexvar.PrefixBackbone` steps for it."""

import torch
from torch import nn

import flexvar


class MeanMixer(flexvar.PrefixBackbone):
    """Each token sees itself and the mean of all tokens up to the end of its scale.

    Of a condition with tokens it sees their mean beside the pooled vector.
    """

    accepts = frozenset({"tokens"})

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

    def forward(self, x_BLD, condition, layout, position):
        """Features (B,L,D) of all scales at once."""
        cond_BD = condition.pooled_BD
        if condition.tokens_BTD is not None:
            tokens, mask = condition.tokens_BTD, condition.mask_BT
            mask = torch.ones_like(tokens[..., 0]) if mask is None else mask.to(tokens.dtype)
            total = (tokens * mask[..., None]).sum(dim=1)
            cond_BD = cond_BD + total / mask.sum(dim=1, keepdim=True).clamp_min(1)
        for block in self.blocks:
            parts = [
                x_BLD[:, : part.stop].mean(dim=1, keepdim=True).expand(-1, grid.cells, -1)
                for part, grid in zip(layout.slices, layout, strict=True)
            ]
            past_BLD = torch.cat(parts, dim=1)
            cond_BLD = cond_BD[:, None].expand_as(x_BLD)
            x_BLD = x_BLD + block(torch.cat([x_BLD, past_BLD, cond_BLD], dim=-1))
        return x_BLD
