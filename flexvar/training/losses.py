"""The sum of a recipe's reconstruction losses, each found by its name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexvar.components import Loss
from flexvar.config import parse
from flexvar.errors import FlexvarError, PluginError
from flexvar.plugin import Registry, default_registry
from flexvar.training.recipe import LossSpec


class WeightedLosses(nn.Module):
    """A sum of losses over reconstructions of several sizes; each joins where it can.

    specs: name, weight and options of each; a name is looked up among all plugins' losses.
    Raises `FlexvarError` for a name that no plugin offers, with the choices, for one that stands
    twice, and for options that a loss does not take.
    """

    def __init__(self, specs: Sequence[LossSpec], registry: Registry | None = None) -> None:
        super().__init__()
        registry = registry or default_registry()
        self.names: list[str] = []
        self.weights: list[float] = []
        self.parts = nn.ModuleList()
        for number, spec in enumerate(specs):
            if spec.name in self.names:
                raise FlexvarError(f"losses.{number}: {spec.name} stands twice.")
            cls = _load(registry, spec.name, f"losses.{number}")
            self.names.append(spec.name)
            self.weights.append(spec.weight)
            self.parts.append(cls(parse(cls.Config, spec.options, path=f"losses.{number}.options")))

    def check(self, size: tuple[int, int], stride: int) -> list[str]:
        """What the log says: which loss goes without which grids, for a training size in pixels.

        Raises `FlexvarError` if a loss cannot even take the whole picture.
        """
        notes = []
        for name, part in zip(self.names, self._parts(), strict=True):
            notes += skipped_grids(name, part.smallest, size, stride)
        return notes

    def forward(
        self, images: Sequence[Tensor], targets: Sequence[Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum over all pictures, and each loss by name, unweighted."""
        total, values = images[0].new_zeros(()), {}
        for name, weight, part in zip(self.names, self.weights, self._parts(), strict=True):
            terms = [
                part(image, target)
                for image, target in zip(images, targets, strict=True)
                if min(image.shape[-2:]) >= part.smallest
            ]
            value = torch.stack(terms).sum()
            values[name] = value.detach()
            total = total + weight * value
        return total, values

    def _parts(self) -> list[Loss]:
        return [cast(Loss, part) for part in self.parts]


def _load(registry: Registry, name: str, where: str) -> type[Loss]:
    try:
        cls = registry.load("loss", name)
    except PluginError as error:
        raise FlexvarError(f"{where}: {error}") from None
    if not (isinstance(cls, type) and issubclass(cls, Loss)):
        raise PluginError(
            f"{where}: loss {name!r} is {cls!r}, expected a subclass of flexvar.Loss."
        )
    return cls


def skipped_grids(name: str, smallest: int, size: tuple[int, int], stride: int) -> list[str]:
    """A line for the log if small grids go without a loss; none if all can have it.

    Raises `FlexvarError` if the training size itself is below the loss's resolution.
    """
    if min(size) < smallest:
        raise FlexvarError(
            f"The loss {name} needs pictures of at least {smallest} px; training is at "
            f"{size[0]}x{size[1]}. Leave the loss out, or train at a larger size."
        )
    if smallest <= stride:
        return []
    least = -(-smallest // stride)
    return [
        f"loss {name} needs {smallest} px: latents below {least} cells ({least * stride} px) "
        "go without it"
    ]


def resized(image_B3HW: Tensor, size: Sequence[int]) -> Tensor:
    """A picture at another size, antialiased: the target of a reconstruction of that size."""
    if tuple(image_B3HW.shape[-2:]) == tuple(size):
        return image_B3HW
    return F.interpolate(image_B3HW.float(), size=list(size), mode="bilinear", antialias=True)
