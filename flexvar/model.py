"""NextScaleModel: condition and start embedding, position, backbone, head -> logits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexvar.components import (
    Backbone,
    Condition,
    Conditioner,
    Facts,
    Position,
    PositionEmbedding,
)
from flexvar.errors import FlexvarError
from flexvar.layout import Layout
from flexvar.ops.linear import Linear
from flexvar.ops.norms import NORM, modulated_norm

# VAR's and FlexVAR's code: the head starts at 2 % of the usual scale, AdaLN at half of it.
HEAD_INIT = 0.02
MODULATION_INIT = 0.5


class ModulatedHead(nn.Module):
    """Logits: layer norm without weights, scaled and shifted by the condition, then linear.

    fused: see `flexvar.ops.fusion`.
    """

    fused = False
    fusions = (NORM,)

    def __init__(self, width: int, vocab_size: int, groups: int = 1) -> None:
        super().__init__()
        self.groups = groups
        self.modulation = nn.Linear(width, 2 * width)
        self.logits = Linear(width, vocab_size * groups)

    def modulate(self, cond_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Scale, 1 added, and shift (B,1,D) of a condition, fp32; constant over a generation."""
        values_B12D = self.modulation(F.silu(cond_BD)).unflatten(-1, (1, 2, -1))
        scale_B1D, shift_B1D = values_B12D.float().unbind(2)
        return 1 + scale_B1D, shift_B1D

    def features(self, x_BLD: Tensor, modulation: tuple[Tensor, Tensor]) -> Tensor:
        """What the logits are a linear function of, (B,L,D) fp32 whatever the weights are in."""
        return modulated_norm(x_BLD, *modulation, fused=self.fused, dtype=torch.float32)

    def forward(self, features_BLD: Tensor) -> Tensor:
        """fp32 logits (B,L,V) of features, or (B,L,G,V) for tokens of G parts; linear in them."""
        logits = self.logits(features_BLD.to(self.logits.weight.dtype)).float()
        return logits if self.groups == 1 else logits.unflatten(-1, (self.groups, -1))


@dataclass(slots=True)
class ModelState:
    """What one generation keeps: the backbone's state, and all that is constant over scales."""

    layout: Layout
    first_B1D: Tensor
    add_LD: Tensor | None
    head: tuple[Tensor, Tensor]
    backbone: Any
    scale: int = 0


class NextScaleModel(nn.Module):
    """Predicts every token map from the coarser ones, under a class label.

    What an image is of comes as the inputs of the model's conditioner, batch first; of ``label``
    they are int64 in [0, num_classes], and ``num_classes`` itself is the null label of
    classifier-free guidance. Layouts start at 1x1, whose input is the pooled condition plus a
    learned start vector (VAR, arXiv 2404.02905, section 3.2; FlexVAR, arXiv 2502.20313).
    """

    def __init__(
        self,
        backbone: Backbone,
        position: PositionEmbedding,
        conditioner: Conditioner,
        *,
        facts: Facts,
    ) -> None:
        super().__init__()
        self.facts = facts
        width = facts.width
        self.token_embedding = nn.Linear(facts.code_dim, width)
        # Under the name that checkpoints know it by; add_module would take the property of that
        # name for an attribute in the way.
        self._conditioner = getattr(conditioner, "state_name", "conditioner")
        self._modules[self._conditioner] = cast(nn.Module, conditioner)
        self.start_embedding = nn.Parameter(torch.empty(width))
        self.position = cast(nn.Module, position)
        self.backbone = cast(nn.Module, backbone)
        self.head = ModulatedHead(width, facts.vocab_size, facts.groups)
        self._initialise()

    def _initialise(self) -> None:
        std = math.sqrt(1 / self.facts.width / 3)
        for linear in (self.token_embedding, self.head.modulation, self.head.logits):
            nn.init.trunc_normal_(linear.weight, std=std)
            nn.init.zeros_(linear.bias)
        if hasattr(self.conditioner, "initialise"):
            self.conditioner.initialise()
        nn.init.trunc_normal_(self.start_embedding, std=std)
        with torch.no_grad():
            self.head.logits.weight.mul_(HEAD_INIT)
            self.head.modulation.weight.mul_(MODULATION_INIT)

    @property
    def conditioner(self) -> Conditioner:
        """What turns labels, prompts or pictures into the condition."""
        return cast(Conditioner, self._modules[self._conditioner])

    @property
    def num_classes(self) -> int:
        """Number of classes; also the null label."""
        return self.facts.num_classes

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return self.token_embedding.weight.dtype

    def forward(self, inputs: Any, inputs_BLC: Tensor, layout: Layout) -> Tensor:
        """fp32 logits (B,L,V) of all tokens of a layout at once.

        inputs: what the conditioner's ``collate`` gave, on the model's device: for ``label``
        int64 labels (B). inputs_BLC: `flexvar.sequence.teacher_forcing` of the true maps,
        (B,L-1,C).
        Raises `FlexvarError` if the inputs are not those of the layout.
        """
        if inputs_BLC.shape[1:] != (layout.tokens - 1, self.facts.code_dim):
            raise FlexvarError(
                f"Inputs of shape {tuple(inputs_BLC.shape)} do not fit the layout {layout}: "
                f"expected (B, {layout.tokens - 1}, {self.facts.code_dim})."
            )
        condition, first_B1D, position = self._condition(inputs, layout)
        rest_BLD = self.token_embedding(inputs_BLC.to(self.dtype))
        x_BLD = torch.cat([first_B1D, rest_BLD], dim=1)
        if position.add_LD is not None:
            x_BLD = x_BLD + position.add_LD.to(x_BLD.dtype)
        rotate = Position(rotate_LR=position.rotate_LR)
        x_BLD = self.backbone(x_BLD, self._for_backbone(condition), layout, rotate)
        return self.head(self.head.features(x_BLD, self.head.modulate(condition.pooled_BD)))

    def start(self, inputs: Any, layout: Layout) -> ModelState:
        """A fresh state for predicting ``layout`` scale by scale."""
        condition, first_B1D, position = self._condition(inputs, layout)
        backbone = cast(Backbone, self.backbone)
        return ModelState(
            layout=layout,
            first_B1D=first_B1D,
            add_LD=None if position.add_LD is None else position.add_LD.to(self.dtype),
            head=self.head.modulate(condition.pooled_BD),
            backbone=backbone.start(
                self._for_backbone(condition), layout, Position(rotate_LR=position.rotate_LR)
            ),
        )

    def step(self, inputs_BLC: Tensor | None, state: ModelState) -> Tensor:
        """fp32 logits (B,h*w,V) of the next scale; ``state`` moves on.

        inputs_BLC: the folded latent so far resized to this scale's grid, row-major; None for
        the first scale.
        """
        return self.head(self.features(inputs_BLC, state))

    def features(self, inputs_BLC: Tensor | None, state: ModelState) -> Tensor:
        """As `step`, but what the head makes logits of: (B,h*w,D), fp32.

        The head is linear in them, so that guidance - a sum of two rows of logits with weights
        that add up to 1 - can be taken here, before the product of vocabulary size.
        """
        if state.scale == len(state.layout):
            raise FlexvarError(f"All {len(state.layout)} scales are predicted already.")
        if (inputs_BLC is None) != (state.scale == 0):
            raise FlexvarError("Inputs are None for the first scale, and only for it.")
        part = state.layout.slices[state.scale]
        if inputs_BLC is None:
            x_BLD = state.first_B1D
        else:
            x_BLD = self.token_embedding(inputs_BLC.to(self.dtype))
        if state.add_LD is not None:
            x_BLD = x_BLD + state.add_LD[part]
        state.scale += 1
        x_BLD = cast(Backbone, self.backbone).step(x_BLD, state.backbone)
        return self.head.features(x_BLD, state.head)

    def _condition(self, inputs: Any, layout: Layout) -> tuple[Condition, Tensor, Position]:
        layout.check_for_model()
        condition = cast(nn.Module, self.conditioner)(inputs)
        first_B1D = (condition.pooled_BD + self.start_embedding)[:, None]
        return condition, first_B1D, self.position(layout)

    def _for_backbone(self, condition: Condition) -> Any:
        """The condition itself for a backbone that reads tokens, else its pooled vector."""
        accepts: frozenset[str] = getattr(self.backbone, "accepts", frozenset())
        return condition if "tokens" in accepts else condition.pooled_BD
