"""Guidance inside of the network, of the output of a block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from flexvar_plugins.samplers.standard import StandardConfig, StandardSampler
from pydantic import Field

from flexvar.config import ComponentConfig
from flexvar.errors import FlexvarError
from flexvar.layout import Layout

if TYPE_CHECKING:
    from torch import Tensor

    from flexvar.components import Predictor


class BlockGuidanceConfig(StandardConfig):
    """Options of ``standard``, and after which blocks guidance acts."""

    guidance_blocks: tuple[int, ...] = Field(
        default=(-5,),
        min_length=1,
        description="Blocks whose output is guided; -1 is the last one, 0 the first.",
    )


class BlockGuidanceSampler(StandardSampler):
    """Both halves go on as one after a block (Infinity's code, ``cfg_insertion_layer``).

    Where tokens, and not only their odds, are far from the unconditional ones, later blocks see
    the guided picture too. The weight of a step is that of ``standard``.
    """

    Config: ClassVar[type[ComponentConfig]] = BlockGuidanceConfig
    contract_options = ({"guidance_blocks": (-2,)},)

    def wrap(self, models: Mapping[str, Predictor]) -> Predictor:
        """The model, whose blocks guide."""
        assert isinstance(self.config, BlockGuidanceConfig)
        return Guided(models["model"], self, self.config.guidance_blocks)


@dataclass(slots=True)
class GuidedState:
    """The model's own state, where it stands, and its blocks that guide."""

    inner: Any
    layout: Layout
    blocks: frozenset[int]
    scale: int = 0


class Guided:
    """A model of conditional and unconditional rows, in this order, that guides within itself."""

    def __init__(self, model: Predictor, sampler: StandardSampler, blocks: tuple[int, ...]) -> None:
        self.model, self.sampler, self.blocks = model, sampler, blocks
        self.head = model.head

    def start(self, inputs: Any, layout: Layout) -> GuidedState:
        """A fresh state. Raises `FlexvarError` for a model without such blocks."""
        inner = self.model.start(inputs, layout)
        own = getattr(inner, "backbone", None)
        depth = len(getattr(getattr(self.model, "backbone", None), "blocks", ()))
        if not hasattr(own, "after_block") or not depth:
            raise FlexvarError(
                "sampler block_guidance: this model's backbone cannot be guided at a block; the "
                "backbone transformer can. The sampler standard guides the logits of any model."
            )
        if wrong := [number for number in self.blocks if not -depth <= number < depth]:
            raise FlexvarError(
                f"guidance_blocks: got {wrong[0]}; this model has {depth} blocks, {-depth} to "
                f"{depth - 1}."
            )
        return GuidedState(inner, layout, frozenset(number % depth for number in self.blocks))

    def features(self, inputs_BLC: Tensor | None, state: GuidedState) -> Tensor:
        """Features (B,h*w,D), in both halves the guided ones."""
        import torch

        step, state.scale = state.scale, state.scale + 1
        weight = self.sampler.guidance(state.layout, step)
        if weight == 0:
            return self.model.features(inputs_BLC, state.inner)
        state.inner.backbone.after_block = partial(_guided, state.blocks, weight)
        found_BLD = self.model.features(inputs_BLC, state.inner)
        state.inner.backbone.after_block = None
        # Guided again by the caller, equal halves stay as they are.
        cond_BLD, _ = found_BLD.chunk(2)
        return torch.cat([cond_BLD, cond_BLD])


def _guided(blocks: frozenset[int], weight: float, number: int, x_BLD: Tensor) -> Tensor:
    import torch

    from flexvar.generation import draw

    if number not in blocks:
        return x_BLD
    cond_BLD, uncond_BLD = x_BLD.chunk(2)
    one_BLD = draw.guide(cond_BLD, uncond_BLD, weight)
    return torch.cat([one_BLD, one_BLD])
