"""A transformer in which every scale sees the one before it alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from flexvar_plugins.backbones import attention
from flexvar_plugins.backbones.transformer import TransformerBackbone, TransformerConfig
from pydantic import Field
from torch import Tensor, nn

from flexvar.components import Facts, Position
from flexvar.config import ComponentConfig
from flexvar.layout import Layout


class MarkovConfig(TransformerConfig):
    """Options of `MarkovBackbone`: those of the transformer, and one more.

    history: scales before this one whose means are compressed into one vector that every token of
    the scale gets (Markov-VAR, arXiv 2511.23334, takes 3); 0 for none (HMAR, arXiv 2506.04421).
    """

    history: int = Field(default=0, ge=0)


@dataclass(slots=True)
class MarkovState:
    """One generation: no keys, no values, only the means of the last few scales."""

    condition: Any
    layout: Layout
    position: Position
    means_BD: list[Tensor] = field(default_factory=list)
    scale: int = 0


class MarkovBackbone(TransformerBackbone):
    """Attention inside each scale; the scale before it is there as the input, and no other.

    What a scale reads is the picture so far, resized to its grid, so that nothing has to be kept
    between scales: HMAR's Markovian next-scale prediction (arXiv 2506.04421, section 3.1).
    """

    Config: ClassVar[type[ComponentConfig]] = MarkovConfig
    accepts: ClassVar[frozenset[str]] = frozenset({"rotate"})
    contract_options: ClassVar[tuple[dict[str, Any], ...]] = (
        {"depth": 2, "width": 64, "num_heads": 2},
        {"depth": 2, "width": 64, "history": 2, "shared_modulation": True, "drop_path": 0.2},
    )
    over_scales = staticmethod(attention.inside_scales)

    def __init__(self, config: MarkovConfig, *, facts: Facts) -> None:
        super().__init__(config, facts=facts)
        self.window = config.history
        self.compress = nn.Linear(config.width, config.width) if config.history else None

    def forward(self, x_BLD: Tensor, condition: Any, layout: Layout, position: Position) -> Tensor:
        """Features (B,L,D) of all scales at once."""
        parts = [x_BLD[:, part] for part in layout.slices]
        means_BD = [part.mean(dim=1) for part in parts]
        told = [self._tell(x, means_BD[:scale]) for scale, x in enumerate(parts)]
        return super().forward(torch.cat(told, dim=1), condition, layout, position)

    def start(self, condition: Any, layout: Layout, position: Position) -> Any:
        """A fresh state, whose size depends on the number of scales in the history alone."""
        return MarkovState(condition, layout, position)

    def step(self, x_BLD: Tensor, state: Any) -> Tensor:
        """Features (B,h*w,D) of the next scale."""
        rotate_LR, scale = state.position.rotate_LR, state.scale
        if rotate_LR is not None:
            rotate_LR = rotate_LR[state.layout.slices[scale]]
        told = self._tell(x_BLD, state.means_BD)
        if self.window:
            state.means_BD = [*state.means_BD, x_BLD.mean(dim=1)][-self.window :]
        state.scale += 1
        alone = Layout((state.layout[scale],))
        return super().forward(told, state.condition, alone, Position(rotate_LR=rotate_LR))

    def _tell(self, x_BLD: Tensor, means_BD: Sequence[Tensor]) -> Tensor:
        """The tokens, with the history added to each."""
        if self.compress is None or not means_BD:
            return x_BLD
        recent_BD = torch.stack(list(means_BD[-self.window :])).mean(dim=0)
        return x_BLD + self.compress(recent_BD)[:, None]
