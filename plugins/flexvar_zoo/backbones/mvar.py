"""Attention inside a scale, Mamba across scales."""

from __future__ import annotations

from typing import ClassVar

import torch
from flexvar_plugins.backbones import attention, scan_kernels
from flexvar_plugins.backbones.adaln import (
    BlockConfig,
    Branch,
    modulated_norm,
    shrink,
    truncated_normal,
)
from flexvar_plugins.backbones.mamba import MambaConfig
from flexvar_plugins.backbones.mixer import Memory, Mixer
from flexvar_plugins.backbones.transformer import Attention, TransformerConfig
from pydantic import Field
from torch import Tensor

from flexvar.components import Facts
from flexvar.config import ComponentConfig
from flexvar.ops.precision import computing_dtype
from flexvar_zoo.backbones.carried import CarriedBackbone, CarryingBlock, Scene


class MvarConfig(TransformerConfig):
    """Options of `MvarBackbone`: those of the transformer, and of its Mamba-2 mixers.

    state_size: numbers a channel remembers. expand: inner width of a mixer over width. scan:
    implementation of the scan; ``implementation`` is that of attention.
    """

    state_size: int = Field(default=64, ge=8, multiple_of=8)
    expand: int = Field(default=2, ge=1)
    scan: scan_kernels.Implementation = "auto"

    @property
    def mixer(self) -> MambaConfig:
        """The options of a mixer."""
        options = {"width": self.width, "state_size": self.state_size, "expand": self.expand}
        return MambaConfig.model_validate(options)


class Block(CarryingBlock):
    """Attention inside each scale, a scan over all scales, an MLP."""

    def __init__(self, config: MvarConfig, number: int) -> None:
        super().__init__(config, number, branches=3)
        self.config = config
        self.attention = Attention(config)
        self.mixer = Mixer(config.mixer)

    @torch.no_grad()
    def initialise(self, config: BlockConfig) -> None:
        """The published start of each part."""
        super().initialise(config)
        for layer in (self.attention.qkv, self.attention.out):
            truncated_normal(layer, config)
        self.attention.out.weight.mul_(shrink(config))
        self.mixer.initialise(shrink(config))

    def forward(
        self, x_BLD: Tensor, branches: tuple[Branch, ...], scene: Scene, memory: Memory | None
    ) -> tuple[Tensor, Memory]:
        """(B,L,D), and the state of the scan: all that is kept, whatever the grid."""
        first, second, third = branches
        device, dtype = x_BLD.device, computing_dtype(x_BLD)
        q, k, v = self.attention.project(modulated_norm(x_BLD, first), scene.rotate_LR)
        attend = attention.KERNELS[attention.choose(self.config.implementation, device, dtype)]
        scale = self.attention.softmax_scale
        mixed = attention.inside_scales(attend, q, k, v, scene.layout, scale).flatten(2)
        x_BLD = self.residual(x_BLD, first.gate, self.attention.out(mixed))
        kernels = scan_kernels.KERNELS[scan_kernels.choose(self.config.scan, device, dtype)]
        mixed, memory = self.mixer(modulated_norm(x_BLD, second), memory, kernels)
        x_BLD = self.residual(x_BLD, second.gate, mixed)
        return self.residual(x_BLD, third.gate, self.mlp(modulated_norm(x_BLD, third))), memory


class MvarBackbone(CarriedBackbone):
    """M-VAR (arXiv 2411.10433): within a scale all tokens see each other, between scales a state.

    In their code the scan runs over the whole prefix again at each scale; here its state is kept.
    """

    Config: ClassVar[type[ComponentConfig]] = MvarConfig
    contract_options = (
        {"depth": 2, "width": 64, "num_heads": 2, "state_size": 16},
        {"depth": 2, "width": 64, "shared_modulation": True, "drop_path": 0.2, "qk_norm": False},
    )

    def __init__(self, config: MvarConfig, *, facts: Facts) -> None:
        super().__init__()
        attention.require(config.implementation)
        scan_kernels.require(config.scan)
        self.width, self.head_dim = config.width, config.head_dim
        self.make_blocks(config, [Block(config, number) for number in range(config.depth)])
