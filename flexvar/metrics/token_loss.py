"""What a model makes of the true tokens: cross-entropy and accuracy, by scale."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from flexvar.layout import Layout


def token_losses(logits: Tensor, tokens: Tensor) -> Tensor:
    """Cross-entropy (B,L) in nats of logits (B,L,V) and tokens (B,L).

    Of tokens of several parts - logits (B,L,G,V), tokens (B,L,G) - it is the sum over the parts,
    which are independent given the coarser scales.
    """
    losses = F.cross_entropy(logits.flatten(0, -2), tokens.flatten(), reduction="none")
    losses = losses.view(tokens.shape)
    return losses if tokens.ndim == 2 else losses.sum(dim=2)


@torch.no_grad()
def scale_figures(
    losses_BL: Tensor, logits: Tensor, tokens: Tensor, layout: Layout
) -> dict[str, Tensor]:
    """Mean loss and accuracy (in [0,1]) of every scale, of all tokens, and of the last scale.

    The accuracy of tokens of several parts is that of the parts.
    """
    right = (logits.argmax(dim=-1) == tokens).float()
    figures = {"accuracy": right.mean()}
    for grid, part in zip(layout, layout.slices, strict=True):
        figures[f"loss/{grid}"] = losses_BL[:, part].mean()
        figures[f"accuracy/{grid}"] = right[:, part].mean()
    last = layout.slices[-1]
    figures["last_loss"] = losses_BL[:, last].mean()
    figures["last_accuracy"] = right[:, last].mean()
    return figures
