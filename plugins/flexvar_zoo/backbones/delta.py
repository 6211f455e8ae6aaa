"""The gated delta rule in place of attention, or of most of it."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from flexvar_plugins.backbones import attention, scan_paths
from flexvar_plugins.backbones.adaln import BlockConfig, Branch, modulated_norm
from flexvar_plugins.backbones.mixer import Memory
from flexvar_plugins.backbones.transformer import TransformerConfig
from pydantic import Field
from torch import Tensor

from flexvar.components import Facts
from flexvar.config import ComponentConfig
from flexvar_zoo.backbones.attention_block import AttentionBlock
from flexvar_zoo.backbones.carried import CarriedBackbone, CarryingBlock, Scene
from flexvar_zoo.backbones.delta_mixer import DeltaMixer


class DeltaConfig(TransformerConfig):
    """Options of `DeltaBackbone`: those of the transformer, and of its mixers.

    attention_every: every so many blocks one has attention over all scales in place of the delta
    rule; 0 for none, 4 for the usual hybrid. conv_width: tokens of the convolution before the
    rule. rule: how it is computed; both give the same.
    """

    attention_every: int = Field(default=0, ge=0)
    conv_width: int = Field(default=4, ge=2, le=4)
    rule: Literal["chunked", "reference"] = "chunked"


class DeltaBlock(CarryingBlock):
    """The delta rule along a zigzag path, then an MLP."""

    def __init__(self, config: DeltaConfig, number: int) -> None:
        super().__init__(config, number)
        self.path = scan_paths.ZIGZAG8[number % len(scan_paths.ZIGZAG8)]
        self.mixer = DeltaMixer(config.width, config.num_heads, config.conv_width, config.rule)

    @torch.no_grad()
    def initialise(self, config: BlockConfig) -> None:
        """The published start."""
        super().initialise(config)
        self.mixer.initialise(config)

    def forward(
        self, x_BLD: Tensor, branches: tuple[Branch, ...], scene: Scene, memory: Memory | None
    ) -> tuple[Tensor, Memory]:
        """(B,L,D), and the state: all that is kept, whatever the grid."""
        first, second = branches
        there, back = scan_paths.gathers((self.path,), scene.layout.grids, x_BLD.device)
        rotate_LR = scene.rotate_LR
        if rotate_LR is not None and there is not None:
            rotate_LR = rotate_LR[there]
        normed = scan_paths.permute(modulated_norm(x_BLD, first), there)
        mixed, memory = self.mixer(normed, rotate_LR, memory)
        x_BLD = self.residual(x_BLD, first.gate, scan_paths.permute(mixed, back))
        return self.residual(x_BLD, second.gate, self.mlp(modulated_norm(x_BLD, second))), memory


class DeltaBackbone(CarriedBackbone):
    """Gated DeltaNet (arXiv 2412.06464) over scales; its state, of one size, is handed on."""

    Config: ClassVar[type[ComponentConfig]] = DeltaConfig
    contract_options = (
        {"depth": 2, "width": 64, "num_heads": 2},
        {"depth": 3, "width": 64, "attention_every": 2, "shared_modulation": True},
        {"depth": 2, "width": 64, "rule": "reference", "conv_width": 2, "drop_path": 0.2},
    )

    def __init__(self, config: DeltaConfig, *, facts: Facts) -> None:
        super().__init__()
        attention.require(config.implementation)
        self.width, self.head_dim = config.width, config.head_dim
        every = config.attention_every
        blocks: list[CarryingBlock] = [
            (AttentionBlock if every and (number + 1) % every == 0 else DeltaBlock)(config, number)
            for number in range(config.depth)
        ]
        self.make_blocks(config, blocks)
