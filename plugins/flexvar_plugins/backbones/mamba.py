"""A Mamba-2 backbone: state-space scans along zigzag paths in place of attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor

from flexvar.components import Facts, Position
from flexvar.components.implementation import Kernel
from flexvar.config import ComponentConfig
from flexvar.layout import Layout
from flexvar.ops.precision import computing_dtype
from flexvar_plugins.backbones import scan_kernels, scan_paths
from flexvar_plugins.backbones.adaln import (
    AdaLnBackbone,
    AdaLnBlock,
    BlockConfig,
    Branch,
    Pending,
    join,
    shrink,
)
from flexvar_plugins.backbones.mixer import Constants, Memory, Mixer
from flexvar_plugins.backbones.scan_kernels import Implementation
from flexvar_plugins.backbones.scan_paths import ZIGZAG8, Path

# Head dimensions to choose from, best first; 64 is the published one.
HEAD_DIMS = (64, 32, 16, 8)


class MambaConfig(ComponentConfig):
    """Options of `MambaBackbone`.

    depth: blocks. width: 64 * depth unless given. expand: inner width of a mixer over width.
    head_dim: channels of a head of the scan; 64, or the largest of 32, 16 and 8 that divides
    the inner width. state_size: numbers a channel remembers, 128 or 64 in the papers.
    conv_width: tokens of the convolution before the scan. mlp: each block is a mixer and an MLP;
    without it, two mixers. mlp_ratio: inner width of the MLP over width. paths: the scan paths
    that mixers take in turn: ``zigzag8``, ``raster``, or a list of names or numbers of
    `flexvar_plugins.backbones.scan_paths`. shared_modulation, drop_path, init_std,
    init_modulation, init_gate: as of the transformer; the mixers start as published.
    chunk_size: tokens per chunk of the scan, a power of two; by implementation unless given.
    implementation: of scan and convolution;
    ``auto`` picks by what is installed, device and dtype.
    """

    depth: int = Field(default=16, ge=1)
    width: int = Field(ge=1)
    expand: int = Field(default=2, ge=1)
    head_dim: int = Field(ge=8, multiple_of=8)
    state_size: int = Field(default=128, ge=8, multiple_of=8)
    conv_width: int = Field(default=4, ge=2, le=4)
    mlp: bool = True
    mlp_ratio: float = Field(default=4.0, gt=0)
    shared_modulation: bool = False
    paths: tuple[Path, ...] = ZIGZAG8
    drop_path: float = Field(default=0.0, ge=0, lt=1)
    init_std: float | None = Field(default=None, gt=0)
    init_modulation: float = Field(default=0.5, ge=0)
    init_gate: float = Field(default=1e-3, ge=0)
    chunk_size: int | None = Field(default=None, ge=16, le=256)
    implementation: Implementation = "auto"

    @model_validator(mode="before")
    @classmethod
    def _scale_with_depth(cls, data: Any) -> Any:
        """Width and head dimension follow from the depth unless given."""
        if not isinstance(data, dict):
            return data
        try:
            width = int(data.get("width", 64 * int(data.get("depth", 16))))
            inner = int(data.get("expand", 2)) * width
        except (TypeError, ValueError):
            width, inner = 64, 128  # so that the wrong value is what gets reported
        # 8 where none fits: then the check below says so.
        head_dim = next((dim for dim in HEAD_DIMS if inner % dim == 0), HEAD_DIMS[-1])
        return {"width": width, "head_dim": head_dim} | data

    @field_validator("paths", mode="before")
    @classmethod
    def _named_paths(cls, value: Any) -> tuple[Path, ...]:
        if not isinstance(value, str | int | list | tuple):
            raise ValueError("expected 'zigzag8', 'raster', or a list of scan paths")
        return scan_paths.choose(value)

    @field_validator("chunk_size")
    @classmethod
    def _power_of_two(cls, value: int | None) -> int | None:
        if value is not None and value & (value - 1):
            raise ValueError("expected a power of two")
        return value

    @model_validator(mode="after")
    def _whole_heads(self) -> Self:
        if self.inner % self.head_dim:
            raise ValueError(
                f"the inner width {self.inner} (expand {self.expand} * width {self.width}) is no "
                f"multiple of head_dim {self.head_dim}; choose a width that makes it one, or "
                "another head_dim"
            )
        return self

    @property
    def inner(self) -> int:
        """Channels inside a mixer."""
        return self.expand * self.width

    @property
    def num_heads(self) -> int:
        """Heads of the scan."""
        return self.inner // self.head_dim

    @property
    def mixers(self) -> int:
        """Mixers of all blocks together; each takes the next of the paths."""
        return self.depth if self.mlp else 2 * self.depth


Modulations = list[tuple[Branch, ...]]
Gathers = tuple[Tensor | None, ...]


class Block(AdaLnBlock):
    """A mixer, then an MLP or a second mixer."""

    REGIONS: ClassVar[tuple[str, ...]] = ("feed_forward",)

    def __init__(self, config: MambaConfig, number: int) -> None:
        super().__init__(config, number, mlp=config.mlp)
        self.mixer = Mixer(config)
        self.second_mixer = None if config.mlp else Mixer(config)

    def mixers(self) -> list[Mixer]:
        """Its one or two mixers."""
        return [self.mixer] if self.second_mixer is None else [self.mixer, self.second_mixer]

    def initialise(self, config: BlockConfig) -> None:
        """The published start, the mixers' own."""
        super().initialise(config)
        for mixer in self.mixers():
            mixer.initialise(shrink(config))

    def forward(
        self,
        x_BLD: Tensor,
        cond_BD: Tensor,
        shared_B6D: Tensor | None,
        gathers: Gathers,
        kernels: scan_kernels.Kernels,
    ) -> Tensor:
        """Features (B,L,D) under a condition, from fresh memories, in the order of the last mixer.

        shared_B6D: what all blocks share of the condition, if they do. gathers: how each mixer's
        order follows from the one before. All weights of the block are used in here, so that it
        can be sharded by itself.
        """
        both = self.modulate(cond_BD, shared_B6D)
        return self.run(x_BLD, both, gathers, [None] * len(gathers), kernels)[0]

    def run(
        self,
        x_BLD: Tensor,
        both: tuple[Branch, ...],
        gathers: Gathers,
        memories: Sequence[Memory | None],
        kernels: scan_kernels.Kernels,
        constants: Sequence[Constants | None] | None = None,
    ) -> tuple[Tensor, list[Memory]]:
        """The same under AdaLN values that are there already, and what the mixers remember.

        The stream stays in a mixer's order until the next mixer needs its own.
        """
        mixers = (self.mixer, self.second_mixer)
        after: list[Memory] = []
        pending: Pending | None = None
        for number, (mixer, branch) in enumerate(zip(mixers, both, strict=True)):
            if mixer is None:
                return self.feed_forward(x_BLD, pending, branch), after
            if gathers[number] is not None:
                x_BLD = scan_paths.permute(join(x_BLD, pending), gathers[number])
                pending = None
            x_BLD, normed_BLD = self.norm(x_BLD, pending, branch)
            own = None if constants is None else constants[number]
            mixed_BLD, memory = mixer(normed_BLD, memories[number], kernels, own)
            after.append(memory)
            pending = self.pending(x_BLD, branch.gate, mixed_BLD)
        return join(x_BLD, pending), after

    def feed_forward(self, x_BLD: Tensor, pending: Pending | None, branch: Branch) -> Tensor:
        """Features (B,L,D) with what was pending, and after the branch of the MLP."""
        x_BLD, normed_BLD = self.norm(x_BLD, pending, branch)
        return self.residual(x_BLD, branch.gate, self.mlp(normed_BLD))


@dataclass(slots=True)
class MambaState:
    """One generation: AdaLN values, index tables per scale, constants and memory of every mixer.

    A step replaces the memories and changes no tensor, so gradients flow through them.
    """

    modulations: Modulations
    gathers: list[Gathers]
    memories: list[Memory | None]
    kernels: scan_kernels.Kernels
    constants: list[Constants]
    scale: int = 0


class MambaBackbone(AdaLnBackbone):
    """AdaLN Mamba-2, causal along one scan path per mixer, scales coarse to fine.

    FlexVAR's ablation (arXiv 2502.20313, table of Mamba backbones) with ZigMa's eight paths
    (arXiv 2403.13802, section 3.2). Inside a scale a token sees only what its paths visited
    before it; paths from opposite corners alternate. Between scales the state is handed on, so
    that generation never runs a token twice.
    """

    Config: ClassVar[type[ComponentConfig]] = MambaConfig
    accepts: ClassVar[frozenset[str]] = frozenset()
    contract_options = (
        {"depth": 2, "width": 64},
        {
            "depth": 4,
            "width": 32,
            "mlp": False,
            "drop_path": 0.2,
            "state_size": 16,
            "shared_modulation": True,
        },
        {
            "depth": 2,
            "width": 48,
            "paths": "raster",
            "implementation": "reference",
            "conv_width": 2,
            "state_size": 8,
        },
    )

    def __init__(self, config: MambaConfig, *, facts: Facts) -> None:
        super().__init__()
        del facts  # everything it needs is in its options
        scan_kernels.require(config.implementation)
        self.config = config
        self.width, self.head_dim = config.width, config.head_dim
        self.paths = [config.paths[n % len(config.paths)] for n in range(config.mixers)]
        self.make_blocks(config, [Block(config, number) for number in range(config.depth)])

    @classmethod
    def kernels(cls) -> tuple[Kernel, ...]:
        """The scans, and whether they can be had here."""
        return scan_kernels.available()

    @classmethod
    def auto(cls, device: torch.device, dtype: torch.dtype) -> str:
        """The scan that ``auto`` takes on a device in a dtype."""
        return scan_kernels.choose("auto", device, dtype)

    def _blocks(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    def _parts(self) -> list[tuple[Block, slice]]:
        """The blocks, and which of all mixers are theirs."""
        each = len(self.paths) // len(self.blocks)
        return [(b, slice(n * each, (n + 1) * each)) for n, b in enumerate(self._blocks())]

    def implementation(self) -> str:
        """The scan that runs with the weights as they are, or under autocast now."""
        # No matrix, which may be in int8.
        return self._implementation(self._blocks()[0].mixer.conv_bias)

    def forward(self, x_BLD: Tensor, cond_BD: Tensor, layout: Layout, position: Position) -> Tensor:
        """Features (B,L,D) of all scales at once: one scan over all tokens in every mixer."""
        del position  # added by the model; there is nothing to rotate
        gathers = scan_paths.gathers(self.paths, layout.grids, x_BLD.device)
        kernels, shared_B6D = self._kernels(x_BLD), self.shared(cond_BD)
        for block, part in self._parts():
            x_BLD = block(x_BLD, cond_BD, shared_B6D, gathers[part], kernels)
        return scan_paths.permute(x_BLD, gathers[-1])

    def start(self, cond_BD: Tensor, layout: Layout, position: Position) -> MambaState:
        """A fresh state; its size does not depend on the layout."""
        del position
        device = cond_BD.device
        return MambaState(
            modulations=self.modulations(cond_BD),
            gathers=scan_paths.by_scale(self.paths, layout.grids, device),
            memories=[None] * len(self.paths),
            kernels=self._kernels(cond_BD),
            constants=[mixer.constants() for block in self._blocks() for mixer in block.mixers()],
        )

    def step(self, x_BLD: Tensor, state: MambaState) -> Tensor:
        """Features (B,h*w,D) of the next scale; what the mixers remember joins the state."""
        gathers = state.gathers[state.scale]
        after: list[Memory | None] = []
        for (block, part), both in zip(self._parts(), state.modulations, strict=True):
            own = gathers[part], state.memories[part], state.kernels, state.constants[part]
            x_BLD, memories = block.run(x_BLD, both, *own)
            after += memories
        state.memories = after
        state.scale += 1
        return scan_paths.permute(x_BLD, gathers[-1])

    def _kernels(self, like: Tensor) -> scan_kernels.Kernels:
        return scan_kernels.KERNELS[self._implementation(like)]

    def _implementation(self, like: Tensor) -> str:
        # Under autocast the mixers compute in its dtype, whatever that of the stream.
        return scan_kernels.choose(self.config.implementation, like.device, computing_dtype(like))
