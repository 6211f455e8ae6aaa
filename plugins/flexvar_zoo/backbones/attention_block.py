"""The transformer's block among blocks that hand something on: for hybrids."""

from __future__ import annotations

import torch
from flexvar_plugins.backbones import attention
from flexvar_plugins.backbones.adaln import Branch, modulated_norm
from flexvar_plugins.backbones.transformer import Block, TransformerConfig
from torch import Tensor

from flexvar.ops.precision import computing_dtype
from flexvar_zoo.backbones.carried import CarryingBlock, Scene


class AttentionBlock(CarryingBlock, Block):
    """The transformer's block, over all scales so far; its keys and values are handed on."""

    def __init__(self, config: TransformerConfig, number: int) -> None:
        Block.__init__(self, config, number)
        self.config = config

    def forward(  # type: ignore[override]  # called by its own backbone, which hands memory on
        self, x_BLD: Tensor, branches: tuple[Branch, ...], scene: Scene, memory: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(B,L,D), and keys and values (2,B,L,H,d) of all scales so far."""
        first, second = branches
        q, k, v = self.attention.project(modulated_norm(x_BLD, first), scene.rotate_LR)
        now = torch.stack([k, v])
        memory = now if memory is None else torch.cat([memory, now], dim=2)
        keys, values = memory
        before = keys.shape[1] - q.shape[1]
        name = attention.choose(self.config.implementation, x_BLD.device, computing_dtype(x_BLD))
        parts = [
            attention.KERNELS[name](
                q[:, part],
                keys[:, : before + part.stop],
                values[:, : before + part.stop],
                self.attention.softmax_scale,
            )
            for part in scene.layout.slices
        ]
        mixed = self.attention.out(torch.cat(parts, dim=1).flatten(2))
        x_BLD = self.residual(x_BLD, first.gate, mixed)
        return self.residual(x_BLD, second.gate, self.mlp(modulated_norm(x_BLD, second))), memory
