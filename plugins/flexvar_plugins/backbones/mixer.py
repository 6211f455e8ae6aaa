"""Mamba-2's mixer: a gated scan of a convolved projection, and what it hands on."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from flexvar.ops.linear import Linear
from flexvar.ops.precision import computing_dtype
from flexvar_plugins.backbones import one_chunk, scan_kernels

if TYPE_CHECKING:
    from flexvar_plugins.backbones.mamba import MambaConfig

# Published initialisation of Mamba-2: decay rates, and step sizes dt at a zero projection.
RATE_RANGE = (1.0, 16.0)
DT_RANGE, DT_FLOOR = (1e-3, 1e-1), 1e-4


class Memory(NamedTuple):
    """What a mixer hands over from scale to scale, in the order of its path.

    tail_BTE: the last inputs of the convolution. state_BHdN: the state of the scan, fp32.
    """

    tail_BTE: Tensor
    state_BHdN: Tensor


class Constants(NamedTuple):
    """What a mixer's weights say whatever the tokens, fp32: made once for a generation."""

    rate_H: Tensor
    dt_bias_H: Tensor
    skip_H: Tensor
    norm_weight_E: Tensor


class Mixer(nn.Module):
    """Mamba-2's mixer: gate and scan of a convolved projection (arXiv 2405.21060, section 7.1).

    One group: all heads share what they write to and read from the state. A_log, dt_bias and D
    have the names of the paper and its released weights. fused: see `flexvar.ops.fusion`.
    """

    fused = False
    fusions = (one_chunk.CONVOLVE, one_chunk.SCAN, one_chunk.GATED)
    keep_fp32 = frozenset({"A_log", "dt_bias", "D"})
    # Small operations around the products, worth compiling.
    REGIONS: ClassVar[tuple[str, ...]] = ("gated",)

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        inner, heads = config.inner, config.num_heads
        self.chunk_size, self.head_dim = config.chunk_size, config.head_dim
        self.state_size = config.state_size
        convolved = inner + 2 * config.state_size
        self.projection_sizes = [inner, convolved, heads]
        self.in_proj = Linear(config.width, sum(self.projection_sizes), bias=False)
        self.conv_weight = nn.Parameter(torch.empty(convolved, config.conv_width))
        self.conv_bias = nn.Parameter(torch.empty(convolved))
        self.A_log = nn.Parameter(torch.empty(heads))
        self.dt_bias = nn.Parameter(torch.empty(heads))
        self.D = nn.Parameter(torch.empty(heads))
        self.norm_weight = nn.Parameter(torch.empty(inner))
        self.out_proj = Linear(inner, config.width, bias=False)

    @torch.no_grad()
    def initialise(self, shrink: float) -> None:
        """The published start: rates, steps, and uniform weights by fan-in; output * shrink."""
        for linear in (self.in_proj, self.out_proj):
            nn.init.uniform_(linear.weight, -1, 1).div_(math.sqrt(linear.in_features))
        self.out_proj.weight.mul_(shrink)
        for parameter in (self.conv_weight, self.conv_bias):
            nn.init.uniform_(parameter, -1, 1).div_(math.sqrt(self.conv_weight.shape[1]))
        start_rates(self.A_log, self.dt_bias)
        nn.init.ones_(self.D)
        nn.init.ones_(self.norm_weight)

    def constants(self) -> Constants:
        """What `forward` makes of the weights alone."""
        with without_autocast(self.A_log.device):
            rate_H = -self.A_log.float().exp()
        return Constants(rate_H, self.dt_bias.float(), self.D.float(), self.norm_weight.float())

    def forward(
        self,
        x_BLD: Tensor,
        memory: Memory | None,
        kernels: scan_kernels.Kernels,
        constants: Constants | None = None,
    ) -> tuple[Tensor, Memory]:
        """(B,L,D) of tokens in scan order, and the memory after them; None is a fresh memory.

        constants: those of these weights, made here unless given.
        """
        rate_H, dt_bias_H, skip_H, norm_weight_E = constants or self.constants()
        tail_BTE, state_BHdN = memory or (None, None)
        gate_BLE, mixed_BLE, dt_BLH = self.in_proj(x_BLD).split(self.projection_sizes, dim=-1)
        given = mixed_BLE, self.conv_weight, self.conv_bias, tail_BTE
        rest = dt_BLH, dt_bias_H, rate_H, skip_H, state_BHdN, self.head_dim, self.state_size
        if self._at_once(x_BLD, kernels):
            mixed_BLE, tail_BTE = one_chunk.convolve(*given)
            y_BLHd, state_BHdN = one_chunk.scan(mixed_BLE, *rest)
            y_BLE = one_chunk.gated(y_BLHd, gate_BLE, norm_weight_E)
            return self.out_proj(y_BLE), Memory(tail_BTE, state_BHdN)
        mixed_BLE, tail_BTE = kernels.convolve(*given)
        # Every implementation chooses its own precision.
        with without_autocast(x_BLD.device):
            inputs = one_chunk.inputs(mixed_BLE, *rest)
            y_BLHd, state_BHdN = kernels.scan(inputs, self.chunk_size)
            y_BLE = self.gated(y_BLHd, gate_BLE, norm_weight_E)
        return self.out_proj(y_BLE), Memory(tail_BTE, state_BHdN)

    def _at_once(self, x_BLD: Tensor, kernels: scan_kernels.Kernels) -> bool:
        """Whether flexvar's own kernels stand in for torch's steps; others are left as they are."""
        return (
            self.fused
            and not torch.is_grad_enabled()
            and kernels is scan_kernels.KERNELS["torch"]
            and computing_dtype(x_BLD) == x_BLD.dtype
            and one_chunk.takes(x_BLD)
        )

    def gated(self, y_BLHd: Tensor, gate_BLE: Tensor, weight_E: Tensor) -> Tensor:
        """What the scan read, gated and normed in fp32: (B,L,E) in the dtype of the gate."""
        return one_chunk.plain_gated(y_BLHd, gate_BLE, weight_E)


@torch.no_grad()
def start_rates(a_log_H: Tensor, dt_bias_H: Tensor) -> None:
    """The published start of decay rates, in place, and of step sizes at a zero projection."""
    a_log_H.uniform_(*RATE_RANGE).log_()
    low, high = (math.log(bound) for bound in DT_RANGE)
    dt_H = dt_bias_H.uniform_(low, high).exp().clamp_min(DT_FLOOR)
    # The inverse of softplus, so that a zero projection gives dt.
    dt_bias_H.copy_(dt_H + torch.log(-torch.expm1(-dt_H)))


def without_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Inside, torch computes in the dtypes it is given."""
    if not torch.amp.is_autocast_available(device.type):
        return nullcontext()  # the meta device, where shapes and operations are counted
    return torch.autocast(device.type, enabled=False)
