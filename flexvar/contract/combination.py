"""A combination of parts, built, and what to ask of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from flexvar.build import Parts, build
from flexvar.components import PositionEmbedding
from flexvar.config import ModelConfig
from flexvar.contract.measure import LAYOUTS, global_seed, random_layouts, randomise
from flexvar.contract.tokenizers import parts_of
from flexvar.contract.variant import Variant
from flexvar.layout import Layout
from flexvar.model import NextScaleModel
from flexvar.plugin import Registry
from flexvar.sequence import targets, teacher_forcing

NUM_CLASSES = 5
# Three rows: two classes, and the null label between them.
LABELS = (0, NUM_CLASSES, 2)


@dataclass(frozen=True, slots=True)
class Combination:
    """One part of each kind. Only the generation test has a use for the schedule."""

    backbone: Variant
    position: Variant
    tokenizer: Variant
    schedule: Variant
    registry: Registry
    random_layouts: int

    def __str__(self) -> str:
        return "+".join(part.label for part in (self.backbone, self.position, self.tokenizer))

    @property
    def config(self) -> ModelConfig:
        """What to build."""
        return ModelConfig(
            tokenizer=self.tokenizer.spec,
            backbone=self.backbone.spec,
            position=self.position.spec,
            schedule=self.schedule.spec,
            num_classes=NUM_CLASSES,
        )

    @property
    def fits(self) -> bool:
        """Whether the backbone takes what the position embedding gives."""
        # A part without the attribute is found out by the invariants, not here.
        provides: frozenset[str] = getattr(self.position.cls, "provides", frozenset({"add"}))
        accepts: frozenset[str] = getattr(self.backbone.cls, "accepts", frozenset())
        return provides - {"add"} <= accepts

    @property
    def spare(self) -> float:
        """Share of the tokens that may come out otherwise where rounding decides a route."""
        parts = (self.backbone, self.position, self.tokenizer)
        return max(float(getattr(part.cls, "contract_tolerance", 0.0)) for part in parts)

    def build(self, seed: int = 0) -> Parts:
        """The parts with weights of a seed, in eval mode."""
        with global_seed(seed):
            parts = build(self.config, self.registry)
        for number, module in enumerate(parts.modules()):
            randomise(module, seed + number)
            module.eval()
        return parts

    def open(self) -> tuple[NextScaleModel, list[Trial]]:
        """A model, and something to predict for every layout it can be tried with."""
        parts = self.build()
        return model_of(parts), list(self.trials(parts))

    def trials(self, parts: Parts) -> Iterator[Trial]:
        """Random maps for each layout the position embedding takes, and their inputs."""
        known = cast(PositionEmbedding, model_of(parts).position).layouts
        layouts = (*LAYOUTS, *random_layouts(self.random_layouts)) if known is None else known
        for seed, layout in enumerate(layouts):
            source = torch.Generator().manual_seed(seed)
            space, rows = parts.tokenizer.space, len(LABELS)
            maps = [
                torch.randint(space.vocab_size, (rows, *grid, *parts_of(space)), generator=source)
                for grid in layout
            ]
            with torch.no_grad():
                inputs_BLC = teacher_forcing(parts.tokenizer, maps, layout)
            yield Trial(layout, torch.tensor(LABELS), targets(maps), inputs_BLC)


@dataclass(frozen=True, slots=True)
class Trial:
    """A layout, and what a model is asked about it."""

    layout: Layout
    labels_B: Tensor
    tokens: Tensor
    inputs_BLC: Tensor

    def part(self, scale: int) -> slice:
        """Where the inputs of a scale stand; the first scale has none."""
        part = self.layout.slices[scale]
        return slice(max(0, part.start - 1), part.stop - 1)

    def where(self, scale: int) -> str:
        """A scale for a message."""
        return f"layout {self.layout}, scale {scale} ({self.layout[scale]})"

    def noise(self, like: Tensor, size: float = 3.0) -> Tensor:
        """Random numbers of a tensor's shape, the same every time."""
        source = torch.Generator().manual_seed(1)
        return size * torch.randn(like.shape, generator=source)


def model_of(parts: Parts) -> NextScaleModel:
    """The model, which is there."""
    assert parts.model is not None
    return parts.model
