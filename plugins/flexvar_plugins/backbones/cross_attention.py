"""Attention to the tokens of a condition, such as the words of a prompt."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from flexvar.ops.linear import Linear
from flexvar_plugins.backbones import attention


class Seen(NamedTuple):
    """Keys and values of a condition's tokens in one block; mask_BT: where there is a token."""

    keys_BTHd: Tensor
    values_BTHd: Tensor
    mask_BT: Tensor | None


class CrossAttention(nn.Module):
    """Attention from the picture's tokens to those of the condition, after a layer norm.

    The norm has weights only if asked for. The output starts at zero, so that a fresh one changes
    nothing.
    """

    def __init__(self, width: int, heads: int, *, own_norm: bool) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.out = Linear(width, width), Linear(width, width)
        self.key_value = Linear(width, 2 * width)
        self.norm = nn.LayerNorm(width, eps=1e-6, elementwise_affine=own_norm)

    def read(self, tokens_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B,T,H,d) of a condition; constant over one generation."""
        k, v = self.key_value(tokens_BTD).unflatten(-1, (2, self.heads, -1)).unbind(2)
        return k, v

    def forward(self, x_BLD: Tensor, seen: Seen) -> Tensor:
        """What to add to ``x_BLD``."""
        q = self.query(self.norm(x_BLD)).unflatten(-1, (self.heads, -1))
        return self.out(attention.masked(q, seen.keys_BTHd, seen.values_BTHd, seen.mask_BT))
