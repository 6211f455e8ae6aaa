"""Distance of the features of a small network whose weights come with a package."""

from __future__ import annotations

from torch import Tensor

from flexvar.components import Loss
from flexvar.config import ComponentConfig
from flexvar.metrics.efficientnet import efficientnet, perceptual_distance


class Perceptual(Loss):
    """How unlike pictures look to EfficientNet-Lite0 (`flexvar.metrics.efficientnet`)."""

    smallest = 32

    def __init__(self, config: ComponentConfig) -> None:
        super().__init__(config)
        self.network = efficientnet()

    def train(self, mode: bool = True) -> Perceptual:
        """Stay in eval mode."""
        del mode
        return super().train(False)

    def forward(self, image_B3HW: Tensor, target_B3HW: Tensor) -> Tensor:
        """Zero for equal pictures; about 1 for unrelated ones."""
        made, real = self.network.maps(image_B3HW), self.network.maps(target_B3HW)
        return perceptual_distance(made, real).mean()
