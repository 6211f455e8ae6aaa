"""What a loss of tokenizer training must do: say how far a reconstruction is from its picture."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from flexvar.config import ComponentConfig


class Loss(nn.Module):
    """How far a picture is from its target: a scalar of two pictures (B,3,H,W) in [-1,1].

    smallest: least height and width in pixels that it can take; smaller reconstructions go
    without it. A recipe names a loss, with its weight and options::

        class Edges(flexvar.Loss):
            def forward(self, image_B3HW, target_B3HW):
                return (image_B3HW - target_B3HW).diff(dim=-1).abs().mean()

        @flexvar.hookimpl
        def flexvar_losses():
            yield flexvar.Component(name="edges", target="my_plugin.losses:Edges")

        losses: [{name: l1}, {name: edges, weight: 0.1, options: {}}]

    One with options gives itself a ``Config``; weights of its own that are not to be trained
    are frozen by it.
    """

    Config: ClassVar[type[ComponentConfig]] = ComponentConfig
    smallest: int = 1

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def forward(self, image_B3HW: Tensor, target_B3HW: Tensor) -> Tensor:
        """The loss, averaged over pictures and pixels."""
        raise NotImplementedError(f"{type(self).__name__} has to define forward")
