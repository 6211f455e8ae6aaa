"""What a model makes of the true tokens: cross-entropy and accuracy, by scale."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from flexvar.layout import Layout


def token_losses(logits_BLV: Tensor, tokens_BL: Tensor) -> Tensor:
    """Cross-entropy (B,L) in nats."""
    losses = F.cross_entropy(logits_BLV.flatten(0, 1), tokens_BL.flatten(), reduction="none")
    return losses.view(tokens_BL.shape)


@torch.no_grad()
def scale_figures(
    losses_BL: Tensor, logits_BLV: Tensor, tokens_BL: Tensor, layout: Layout
) -> dict[str, Tensor]:
    """Mean loss and accuracy (in [0,1]) of every scale, of all tokens, and of the last scale."""
    right_BL = (logits_BLV.argmax(dim=-1) == tokens_BL).float()
    figures = {"accuracy": right_BL.mean()}
    for grid, part in zip(layout, layout.slices, strict=True):
        figures[f"loss/{grid}"] = losses_BL[:, part].mean()
        figures[f"accuracy/{grid}"] = right_BL[:, part].mean()
    last = layout.slices[-1]
    figures["last_loss"] = losses_BL[:, last].mean()
    figures["last_accuracy"] = right_BL[:, last].mean()
    return figures
