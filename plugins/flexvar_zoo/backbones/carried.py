"""A stack of AdaLN blocks each of which hands something on from scale to scale."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, cast

from flexvar_plugins.backbones.adaln import AdaLnBackbone, AdaLnBlock, Branch
from torch import Tensor, nn

from flexvar.components import Position
from flexvar.layout import Layout


class Scene(NamedTuple):
    """The scales that are computed now - all of them, or the next one - and their angles."""

    layout: Layout
    rotate_LR: Tensor | None


class CarryingBlock(AdaLnBlock):
    """A block that returns what it hands on beside its output; None is nothing so far."""

    def forward(
        self, x_BLD: Tensor, branches: tuple[Branch, ...], scene: Scene, memory: Any
    ) -> tuple[Tensor, Any]:
        """(B,L,D) of the scene's tokens, and the memory after them."""
        raise NotImplementedError


@dataclass(slots=True)
class CarriedState:
    """One generation: AdaLN values, and the memory of every block. A step changes no tensor."""

    scene: Scene
    modulations: list[tuple[Branch, ...]]
    memories: list[Any]
    scale: int = 0


class CarriedBackbone(AdaLnBackbone):
    """Runs `CarryingBlock`s over all scales at once, or over one after the other."""

    accepts: ClassVar[frozenset[str]] = frozenset({"rotate"})

    def forward(self, x_BLD: Tensor, cond_BD: Tensor, layout: Layout, position: Position) -> Tensor:
        """Features (B,L,D) of all scales at once."""
        fresh = self.start(cond_BD, layout, position)
        return self._run(x_BLD, fresh, fresh.scene)

    def start(self, cond_BD: Tensor, layout: Layout, position: Position) -> CarriedState:
        """A fresh state."""
        scene = Scene(layout, position.rotate_LR)
        return CarriedState(scene, self.modulations(cond_BD), [None] * len(self.blocks))

    def step(self, x_BLD: Tensor, state: CarriedState) -> Tensor:
        """Features (B,h*w,D) of the next scale."""
        (layout, rotate_LR), scale = state.scene, state.scale
        if rotate_LR is not None:
            rotate_LR = rotate_LR[layout.slices[scale]]
        state.scale += 1
        return self._run(x_BLD, state, Scene(Layout((layout[scale],)), rotate_LR))

    def _run(self, x_BLD: Tensor, state: CarriedState, scene: Scene) -> Tensor:
        blocks = cast(Iterable[nn.Module], self.blocks)
        for number, (block, branches) in enumerate(zip(blocks, state.modulations, strict=True)):
            x_BLD, state.memories[number] = block(x_BLD, branches, scene, state.memories[number])
        return x_BLD
