"""What the AdaLN blocks of all backbones have in common: modulation, MLP, residual branches."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from types import MethodType
from typing import Any, ClassVar, NamedTuple, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexvar.ops import norms
from flexvar.ops.fusion import Fusion
from flexvar.ops.linear import Linear


class Branch(NamedTuple):
    """AdaLN values (B,1,D) of one branch of a block; the scale has 1 added already."""

    gate: Tensor
    scale: Tensor
    shift: Tensor


class Pending(NamedTuple):
    """What a branch made, (B,L,D), and its gate: not in the stream yet.

    The next norm takes it in, in one launch where kernels are taken.
    """

    gate_B1D: Tensor
    branch_BLD: Tensor


class BlockConfig(Protocol):
    """The options that every backbone of AdaLN blocks has."""

    depth: int
    width: int
    mlp_ratio: float
    shared_modulation: bool
    drop_path: float
    init_std: float | None
    init_modulation: float
    init_gate: float


class AdaLnBlock(nn.Module):
    """A block of branches, two unless told: x += gate * branch(norm(x) * scale + shift), for each.

    With ``shared_modulation`` AdaLN is one projection for all blocks (`AdaLnBackbone`), of which a
    block keeps only an offset (6,D): for each branch a gate, a scale and a shift. mlp: whether the
    last branch is an MLP (Linear, GELU, Linear). fused: see `flexvar.ops.fusion`.
    """

    fused = False
    fusions: ClassVar[tuple[Fusion, ...]] = (norms.NORM, norms.RESIDUAL_NORM)

    def __init__(
        self, config: BlockConfig, number: int, *, mlp: bool = True, branches: int = 2
    ) -> None:
        super().__init__()
        width, self.branches = config.width, branches
        self.drop_path = config.drop_path * number / max(config.depth - 1, 1)
        self.modulation: nn.Linear | None = None
        self.modulation_offset: nn.Parameter | None = None
        if config.shared_modulation:
            self.modulation_offset = nn.Parameter(torch.empty(3 * branches, width))
        else:
            self.modulation = nn.Linear(width, 3 * branches * width)
        if mlp:
            inner = round(width * config.mlp_ratio)
            self.mlp_in = Linear(width, inner, gelu=True)
            self.mlp_out = Linear(inner, width)

    @torch.no_grad()
    def initialise(self, config: BlockConfig) -> None:
        """The published start of what `AdaLnBlock` holds; see `shrink`."""
        linears = [module for module in self.children() if isinstance(module, nn.Linear)]
        for linear in linears:
            truncated_normal(linear, config)
        gates, others = [config.init_gate], [config.init_modulation]
        factors = torch.tensor(gates * self.branches + others * 2 * self.branches)
        if self.modulation is not None:
            rows = factors.to(self.modulation.weight.device)
            self.modulation.weight.unflatten(0, (len(rows), -1)).mul_(rows[:, None, None])
        elif self.modulation_offset is not None:
            nn.init.normal_(self.modulation_offset, std=1 / math.sqrt(config.width))
            self.modulation_offset.mul_(factors.to(self.modulation_offset.device)[:, None])
        if hasattr(self, "mlp_out"):
            self.mlp_out.weight.mul_(shrink(config))

    def modulate(self, cond_BD: Tensor, shared_B6D: Tensor | None) -> tuple[Branch, ...]:
        """What a condition does to the branches; constant over one generation."""
        if self.modulation is not None:
            values_B6D = self.modulation(F.silu(cond_BD)).unflatten(-1, (3 * self.branches, -1))
        else:
            assert shared_B6D is not None
            assert self.modulation_offset is not None
            values_B6D = shared_B6D + self.modulation_offset
        gates, scales, shifts = values_B6D.unsqueeze(1).unflatten(2, (3, -1)).unbind(2)
        parts = zip(gates.unbind(2), (1 + scales).unbind(2), shifts.unbind(2), strict=True)
        return tuple(Branch(*part) for part in parts)

    def mlp(self, x_BLD: Tensor) -> Tensor:
        """Linear, GELU (tanh), linear; each token by itself. (B,L,D) -> (B,L,D)."""
        return self.mlp_out(self.mlp_in(x_BLD))

    def residual(self, x_BLD: Tensor, gate_B1D: Tensor, branch_BLD: Tensor) -> Tensor:
        """x + gate * branch; in training the branch is dropped for some rows (drop-path)."""
        return join(x_BLD, self.pending(x_BLD, gate_B1D, branch_BLD))

    def pending(self, x_BLD: Tensor, gate_B1D: Tensor, branch_BLD: Tensor) -> Pending:
        """The same, to be added by `norm` or `join`."""
        if self.training and self.drop_path > 0:
            keep = 1 - self.drop_path
            gate_B1D = gate_B1D * (torch.empty_like(x_BLD[:, :1, :1]).bernoulli_(keep) / keep)
        return Pending(gate_B1D, branch_BLD)

    def norm(self, x_BLD: Tensor, pending: Pending | None, branch: Branch) -> tuple[Tensor, Tensor]:
        """The stream with what was pending, and its `modulated_norm`."""
        if pending is None:
            return x_BLD, modulated_norm(x_BLD, branch, fused=self.fused)
        given = x_BLD, *pending, branch.scale, branch.shift
        return norms.residual_norm(*given, fused=self.fused)


class AdaLnBackbone(nn.Module):
    """A stack of AdaLN blocks, and the projection they share if they do."""

    # Classes whose modules are sharded, each as a whole: their weights are used in `forward` only.
    _no_split_modules: ClassVar[tuple[str, ...]] = ("Block",)
    blocks: nn.ModuleList

    def make_blocks(self, config: BlockConfig, blocks: Sequence[AdaLnBlock]) -> None:
        """Take the blocks, make what they share, and give both the published start."""
        self.blocks = nn.ModuleList(blocks)
        self.shared_modulation: nn.Linear | None = None
        if config.shared_modulation:
            values = 3 * blocks[0].branches
            self.shared_modulation = nn.Linear(config.width, values * config.width)
            truncated_normal(self.shared_modulation, config)
        for block in blocks:
            block.initialise(config)

    def shared(self, cond_BD: Tensor) -> Tensor | None:
        """What blocks that share a projection start from, (B,6,D); None if each has its own.

        3 rows for each branch of a block, whose number need not be 2.
        """
        if self.shared_modulation is None:
            return None
        first = next(iter(cast(Iterable[AdaLnBlock], self.blocks)))
        return self.shared_modulation(F.silu(cond_BD)).unflatten(-1, (3 * first.branches, -1))

    def compile_regions(self, wrap: Callable[[Any], Any] | None) -> int:
        """Put compiled functions in place of the methods in modules' ``REGIONS``; None: undo.

        One for all modules of a class, which differ in their weights alone; how many that are.
        """
        compiled: dict[Any, Any] = {}
        for module in self.modules():
            for name in getattr(module, "REGIONS", ()):
                function = getattr(type(module), name)
                if wrap is None:
                    module.__dict__.pop(name, None)
                    continue
                if function not in compiled:
                    compiled[function] = wrap(function)
                module.__dict__[name] = MethodType(compiled[function], module)
        return len(compiled)

    def modulations(self, cond_BD: Tensor) -> list[tuple[Branch, ...]]:
        """The AdaLN values of every block under a condition (B,D)."""
        shared_B6D = self.shared(cond_BD)
        blocks = cast(Iterable[AdaLnBlock], self.blocks)
        return [block.modulate(cond_BD, shared_B6D) for block in blocks]


def truncated_normal(linear: nn.Linear, config: BlockConfig) -> None:
    """Weights of standard deviation init_std, sqrt(1 / (3 width)) unless given; no bias."""
    nn.init.trunc_normal_(linear.weight, std=config.init_std or math.sqrt(1 / config.width / 3))
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)


def shrink(config: BlockConfig) -> float:
    """The factor on the last weights of every branch: 1 / sqrt(2 depth) (VAR's code)."""
    return 1 / math.sqrt(2 * config.depth)


def join(x_BLD: Tensor, pending: Pending | None) -> Tensor:
    """The stream with what was pending in it."""
    return x_BLD if pending is None else torch.addcmul(x_BLD, *pending)


def modulated_norm(x_BLD: Tensor, branch: Branch, *, fused: bool = False) -> Tensor:
    """Layer norm without weights (statistics in fp32), times scale, plus shift."""
    return norms.modulated_norm(x_BLD, branch.scale, branch.shift, fused=fused)
