"""What stands in a block in place of attention: a convolution and the gated delta rule."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from flexvar_plugins.backbones import attention, ssd
from flexvar_plugins.backbones.adaln import BlockConfig, shrink, truncated_normal
from flexvar_plugins.backbones.mixer import Memory, start_rates, without_autocast
from torch import Tensor, nn

from flexvar.ops.linear import Linear
from flexvar_zoo.backbones import delta_rule

NORM_EPS = 1e-5


class DeltaMixer(nn.Module):
    """Queries, keys and values behind a short convolution, the rule, a gated norm per head.

    Gated DeltaNet (arXiv 2412.06464, figure 1), with values as wide as keys. A_log and dt_bias
    have the names of Mamba-2, whose decay it takes.
    """

    keep_fp32 = frozenset({"A_log", "dt_bias"})

    def __init__(self, width: int, heads: int, conv_width: int, rule: str) -> None:
        super().__init__()
        self.heads, self.rule = heads, delta_rule.RULES[rule]
        self.sizes = [3 * width, width, heads, heads]
        self.in_proj = Linear(width, sum(self.sizes), bias=False)
        self.conv_weight = nn.Parameter(torch.empty(3 * width, conv_width))
        self.conv_bias = nn.Parameter(torch.empty(3 * width))
        self.A_log = nn.Parameter(torch.empty(heads))
        self.dt_bias = nn.Parameter(torch.empty(heads))
        self.norm_weight = nn.Parameter(torch.empty(width // heads))
        self.out_proj = Linear(width, width, bias=False)

    @torch.no_grad()
    def initialise(self, config: BlockConfig) -> None:
        """The start of the blocks' linear layers, and Mamba-2's of the decay."""
        for linear in (self.in_proj, self.out_proj):
            truncated_normal(linear, config)
        self.out_proj.weight.mul_(shrink(config))
        for parameter in (self.conv_weight, self.conv_bias):
            nn.init.uniform_(parameter, -1, 1).div_(self.conv_weight.shape[1] ** 0.5)
        start_rates(self.A_log, self.dt_bias)
        nn.init.ones_(self.norm_weight)

    def forward(
        self, x_BLD: Tensor, rotate_LR: Tensor | None, memory: Memory | None
    ) -> tuple[Tensor, Memory]:
        """(B,L,D) of tokens in the order of a path, and the memory after them."""
        tail_BTE, state_BHdd = memory or (None, None)
        qkv_BLE, gate_BLD, dt_BLH, beta_BLH = self.in_proj(x_BLD).split(self.sizes, dim=-1)
        qkv_BLE, tail_BTE = ssd.convolve(qkv_BLE, self.conv_weight, self.conv_bias, tail_BTE)
        with without_autocast(x_BLD.device):
            q, k, v = qkv_BLE.float().unflatten(-1, (3, self.heads, -1)).unbind(2)
            q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
            if rotate_LR is not None:
                q, k = attention.rotate(q, rotate_LR), attention.rotate(k, rotate_LR)
            dt_BLH = F.softplus(dt_BLH.float() + self.dt_bias.float())
            log_decay_BLH = -self.A_log.float().exp() * dt_BLH
            y, state_BHdd = self.rule(
                q, k, v, log_decay_BLH, beta_BLH.float().sigmoid(), state_BHdd
            )
            y = F.rms_norm(y, y.shape[-1:], self.norm_weight.float(), NORM_EPS)
            y_BLD = y.flatten(2) * F.silu(gate_BLD.float())
        return self.out_proj(y_BLD.to(gate_BLD.dtype)), Memory(tail_BTE, state_BHdd)
