"""Losses of pixels and of their structure: no network, nothing to download."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from flexvar.components import Loss
from flexvar.config import ComponentConfig
from flexvar.metrics.picture import SSIM_WINDOW, ssim


class L1(Loss):
    """Mean absolute difference."""

    def forward(self, image_B3HW: Tensor, target_B3HW: Tensor) -> Tensor:
        """In [0,2] for pictures in [-1,1]."""
        return F.l1_loss(image_B3HW, target_B3HW)


class L2(Loss):
    """Mean squared difference."""

    def forward(self, image_B3HW: Tensor, target_B3HW: Tensor) -> Tensor:
        """In [0,4] for pictures in [-1,1]."""
        return F.mse_loss(image_B3HW, target_B3HW)


class LaplacianConfig(ComponentConfig):
    """levels: octaves of detail, fine to coarse; the rest below them is compared too."""

    levels: int = Field(default=3, ge=1)


class Laplacian(Loss):
    """Mean absolute difference of Laplacian pyramids, every octave with the same weight.

    Plain pixel losses are ruled by the coarse octaves, where most of the contrast is, and blur
    the fine ones; here an edge that is missing costs as much as a wrong tone (Bojanowski et al.,
    arXiv 1707.05776, compare generated photographs so). No network, nothing to download.
    """

    Config = LaplacianConfig

    def __init__(self, config: LaplacianConfig) -> None:
        super().__init__(config)
        self.levels = config.levels
        self.smallest = 2 ** (config.levels + 1)

    def forward(self, image_B3HW: Tensor, target_B3HW: Tensor) -> Tensor:
        """The sum over octaves."""
        rest = image_B3HW - target_B3HW  # the pyramid is linear: one of the difference will do
        total = rest.new_zeros(())
        for _ in range(self.levels):
            coarse = F.avg_pool2d(rest, 2, ceil_mode=True, count_include_pad=False)
            size = cast(list[int], list(rest.shape[-2:]))
            fine = rest - F.interpolate(coarse, size=size, mode="bilinear", align_corners=False)
            total = total + fine.abs().mean()
            rest = coarse
        return total + rest.abs().mean()


class Ssim(Loss):
    """1 - SSIM: local brightness, contrast and structure in windows of 7 px."""

    smallest = SSIM_WINDOW

    def forward(self, image_B3HW: Tensor, target_B3HW: Tensor) -> Tensor:
        """In [0,2]."""
        return 1 - ssim(image_B3HW, target_B3HW).mean()
