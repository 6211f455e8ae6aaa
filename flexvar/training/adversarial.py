"""A PatchGAN discriminator and its hinge losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexvar.training.recipe import AdversarialConfig


class PatchDiscriminator(nn.Module):
    """Judges every patch of pictures (B,3,H,W): logits (B,1,h,w), high for real ones.

    Isola et al., arXiv 1611.07004, with GroupNorm for BatchNorm, so that pictures of a batch
    stay independent and several processes need no common statistics.
    """

    def __init__(self, config: AdversarialConfig) -> None:
        super().__init__()
        # Each strided layer halves a side, the two last take one pixel each.
        self.smallest = 3 * 2**config.layers
        width = config.channels
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        for number in range(1, config.layers + 1):
            wider = config.channels * min(2**number, 8)
            stride = 2 if number < config.layers else 1
            layers += [
                nn.Conv2d(width, wider, 4, stride=stride, padding=1, bias=False),
                nn.GroupNorm(min(wider, 8), wider),
                nn.LeakyReLU(0.2),
            ]
            width = wider
        layers.append(nn.Conv2d(width, 1, 4, padding=1))
        self.layers = nn.Sequential(*layers)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, pictures: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """One logit per patch of every picture; pictures can differ in size.

        All in one call, as DistributedDataParallel wants it.
        """
        return tuple(self.layers(image_B3HW) for image_B3HW in pictures)


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of the discriminator: real logits above 1, fake ones below -1."""
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


def generator_loss(fake: Tensor) -> Tensor:
    """What the generator minimises: the discriminator taking its pictures for real."""
    return -torch.mean(fake)
