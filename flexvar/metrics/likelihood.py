"""How likely pictures are under a model, by class and scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flexvar.components import Tokenizer
from flexvar.components.conditioner import each
from flexvar.layout import Layout
from flexvar.metrics.token_loss import token_losses
from flexvar.model import NextScaleModel
from flexvar.sequence import targets, teacher_forcing


@dataclass(frozen=True, slots=True)
class Scores:
    """Log-likelihoods of pictures.

    nats_BNK: natural logarithm of the probability of the true tokens of each scale, given all
    coarser ones: picture, class, scale. labels: the classes. layout: the scales.
    """

    nats_BNK: Tensor
    labels: tuple[int | str | None, ...]
    layout: Layout

    @property
    def total_BN(self) -> Tensor:
        """Log-likelihood of all tokens of a picture, (B, classes), in nats."""
        return self.nats_BNK.sum(dim=2)

    @property
    def probability_BN(self) -> Tensor:
        """Probability of each class, (B, classes), if all were equally likely before (Bayes)."""
        return self.total_BN.softmax(dim=1)

    @property
    def best(self) -> list[int | str | None]:
        """The class under which each picture is likeliest."""
        return [self.labels[index] for index in self.total_BN.argmax(dim=1).tolist()]


@torch.inference_mode()
def nats(
    model: NextScaleModel,
    tokenizer: Tokenizer,
    maps: Sequence[Tensor],
    values: Sequence[Any],
    layout: Layout,
) -> Tensor:
    """Log-likelihood (B, classes, K) fp32 of token maps under each class, by scale, in nats.

    maps: one int64 map per grid, (B,h,w) or (B,h,w,G). values: what the model's conditioner
    collates: class numbers, or prompts. Without guidance, temperature or filters: the model's own
    distribution. One picture and class at a time, in the memory of one.
    """
    inputs_BLC, targets_BL = teacher_forcing(tokenizer, maps, layout), targets(maps)
    device = targets_BL.device
    collated = [model.conditioner.collate([value]) for value in values]
    conditions = [each(lambda tensor: tensor.to(device), inputs) for inputs in collated]
    rows = []
    for inputs_1LC, targets_1L in zip(inputs_BLC.split(1), targets_BL.split(1), strict=True):
        row = []
        for condition in conditions:
            loss_L = token_losses(model(condition, inputs_1LC, layout), targets_1L)[0]
            row.append(torch.stack([-loss_L[part].sum() for part in layout.slices]))
        rows.append(torch.stack(row))
    return torch.stack(rows)


@torch.inference_mode()
def cell_nats(
    model: NextScaleModel,
    tokenizer: Tokenizer,
    maps: Sequence[Tensor],
    inputs: Any,
    layout: Layout,
) -> tuple[Tensor, ...]:
    """How much each token surprises a model, in nats: (B,h,w) fp32 per scale, 0 is expected.

    maps: token maps of pictures. inputs: what the model's conditioner collated, on its device.
    """
    logits = model(inputs, teacher_forcing(tokenizer, maps, layout), layout)
    wanted = targets(maps)
    loss = -logits.log_softmax(dim=-1).gather(-1, wanted[..., None]).squeeze(-1)
    if loss.ndim == 3:  # tokens of several parts
        loss = loss.sum(dim=-1)
    return tuple(
        loss[:, part].unflatten(1, grid) for part, grid in zip(layout.slices, layout, strict=True)
    )
