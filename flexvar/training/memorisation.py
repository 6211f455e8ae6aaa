"""Whether a model gives its training pictures back: how near samples are to the nearest of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Pictures are compared as so many pixels a side: what is seen at a glance, not how it is grained.
SIDE = 16
MOST = 4096
CHUNK = 256


class Memorisation(NamedTuple):
    """Distances (root mean square of pixels in [-1,1]) to the nearest training picture.

    of_samples, of_held_out: mean over samples, and over pictures that were not trained on.
    near: share of samples nearer than `limit`, which only 1 in 100 of held-out pictures are, or
    none.
    """

    of_samples: float
    of_held_out: float
    limit: float
    near: float
    samples: int

    def line(self) -> str:
        """A sentence for a person."""
        near = round(self.near * self.samples)
        verdict = (
            f"{near} of {self.samples} are nearer than held-out pictures ever are: these are "
            "likely copies; train for fewer steps or on more pictures"
            if near
            else "none is nearer than held-out pictures are"
        )
        return (
            f"memorisation: samples are {self.of_samples:.3f} from the nearest training picture on "
            f"average, held-out pictures {self.of_held_out:.3f}; {verdict}"
        )


def memorisation(
    samples: Iterable[Tensor], held_out: Iterable[Tensor], training: Iterable[Tensor]
) -> Memorisation:
    """Compare samples and held-out pictures with the training pictures, and with their mirrors.

    All as batches (B,3,H,W) in [-1,1]; at most `MOST` training pictures are looked at.
    """
    known_ND = _features(training, MOST)
    mirrored = known_ND.unflatten(1, (3, SIDE, SIDE)).flip(-1).flatten(1)
    known_ND = torch.cat([known_ND, mirrored])
    of_samples_N = nearest(_features(samples), known_ND)
    of_held_out_N = nearest(_features(held_out), known_ND)
    limit = float(of_held_out_N.quantile(0.01)) if len(of_held_out_N) else 0.0
    return Memorisation(
        of_samples=float(of_samples_N.mean()),
        of_held_out=float(of_held_out_N.mean()),
        limit=limit,
        near=float((of_samples_N < limit).float().mean()),
        samples=len(of_samples_N),
    )


def nearest(wanted_MD: Tensor, known_ND: Tensor) -> Tensor:
    """The root mean square difference to the nearest, (M,)."""
    parts = [torch.cdist(part, known_ND).amin(dim=1) for part in wanted_MD.split(CHUNK)]
    return torch.cat(parts) / wanted_MD.shape[1] ** 0.5 if parts else torch.empty(0)


def _features(batches: Iterable[Tensor], most: int | None = None) -> Tensor:
    found: list[Tensor] = []
    count = 0
    for images_B3HW in batches:
        small = F.interpolate(images_B3HW.float().cpu(), (SIDE, SIDE), mode="area")
        found.append(small.flatten(1))
        count += len(small)
        if most is not None and count >= most:
            break
    return torch.cat(found)[:most] if found else torch.empty(0, 3 * SIDE * SIDE)
