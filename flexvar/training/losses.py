"""Reconstruction losses, each a small part with a smallest resolution of its own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from flexvar.config import ComponentConfig, parse
from flexvar.errors import FlexvarError
from flexvar.training.recipe import LossSpec

# SSIM's window (Wang et al., 2004, take 11 with sigma 1.5; 7 fits pictures of 8 px).
SSIM_WINDOW, SSIM_SIGMA = 7, 1.5
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2


class Loss(nn.Module):
    """How far a picture is from its target: a scalar from two (B,3,H,W) pictures in [-1,1].

    smallest: least height and width in pixels that it can take.
    """

    Config: ClassVar[type[ComponentConfig]] = ComponentConfig
    smallest: int = 1

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config

    def forward(self, image_B3HW: Tensor, target_B3HW: Tensor) -> Tensor:
        """The loss, averaged over pictures and pixels."""
        raise NotImplementedError


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


class LpipsConfig(ComponentConfig):
    """Where the weights are.

    trunk: torchvision's weights of the network, for example ``vgg16-397923af.pth``. linear: the
    calibration of LPIPS, for example ``lpips/weights/v0.1/vgg.pth``. network: which one.
    """

    trunk: str
    linear: str
    network: Literal["vgg", "alex", "squeeze"] = "vgg"


class Lpips(Loss):
    """Distance of deep features (Zhang et al., arXiv 1801.03924), by the package ``lpips``."""

    Config = LpipsConfig
    smallest = 32

    def __init__(self, config: LpipsConfig) -> None:
        super().__init__(config)
        for option in ("trunk", "linear"):
            path = getattr(config, option)
            if not Path(path).is_file():
                raise FlexvarError(
                    f"losses: lpips needs its weights, and {option}: {path!r} is no file. Give "
                    "the path, or take the losses laplacian and ssim, which need no weights."
                )
        try:
            import lpips
        except Exception as error:
            raise FlexvarError(
                f"losses: lpips needs the package lpips, which cannot be imported ({error}). "
                "pip install 'flexvar[metrics]', or take the losses laplacian and ssim."
            ) from None
        self.network = lpips.LPIPS(
            net=config.network, pretrained=False, pnet_rand=True, verbose=False
        )
        self._load(config)
        self.network.requires_grad_(False).eval()

    def _load(self, config: LpipsConfig) -> None:
        trunk = torch.load(config.trunk, map_location="cpu", weights_only=True)
        linear = torch.load(config.linear, map_location="cpu", weights_only=True)
        own = self.network.net.state_dict()
        # torchvision's "features.5.weight" is "slice2.5.weight" in the package.
        by_tail = {name.split(".", 1)[1]: name for name in own}
        found = {
            by_tail[tail]: tensor
            for name, tensor in trunk.items()
            if (tail := name.removeprefix("features.")) in by_tail
        }
        if found.keys() != own.keys():
            raise FlexvarError(
                f"losses: {config.trunk} holds {len(found)} of the {len(own)} tensors of "
                f"{config.network}; it has to be torchvision's file for that network."
            )
        self.network.net.load_state_dict(found)
        self.network.load_state_dict(linear, strict=False)

    def train(self, mode: bool = True) -> Lpips:
        """Stay in eval mode: the network has dropout."""
        del mode
        return super().train(False)

    def forward(self, image_B3HW: Tensor, target_B3HW: Tensor) -> Tensor:
        """Zero for equal pictures; about 1 for unrelated ones."""
        return self.network(image_B3HW, target_B3HW).mean()


LOSSES: dict[str, type[Loss]] = {
    "l1": L1,
    "l2": L2,
    "laplacian": Laplacian,
    "ssim": Ssim,
    "lpips": Lpips,
}


class WeightedLosses(nn.Module):
    """A sum of losses over reconstructions of several sizes; each joins where it can."""

    def __init__(self, specs: Sequence[LossSpec]) -> None:
        super().__init__()
        self.names: list[str] = []
        self.weights: list[float] = []
        self.parts = nn.ModuleList()
        for number, spec in enumerate(specs):
            if spec.name not in LOSSES:
                raise FlexvarError(
                    f"losses.{number}: there is no loss {spec.name!r}. Losses: {', '.join(LOSSES)}."
                )
            if spec.name in self.names:
                raise FlexvarError(f"losses.{number}: {spec.name} stands twice.")
            cls = LOSSES[spec.name]
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


def ssim(image_B3HW: Tensor, target_B3HW: Tensor) -> Tensor:
    """Structural similarity (B,) in [-1,1] of pictures in [-1,1]; 1 for equal ones.

    Gaussian window of 7 px, sigma 1.5, no padding (Wang et al., 2004). Raises for pictures
    smaller than the window.
    """
    image, target = (x.float().add(1).div(2) for x in (image_B3HW, target_B3HW))
    place = torch.arange(SSIM_WINDOW, dtype=torch.float32, device=image.device)
    weights = torch.exp(-((place - SSIM_WINDOW // 2) ** 2) / (2 * SSIM_SIGMA**2))
    weights = weights / weights.sum()
    moments = torch.cat([image, target, image * image, target * target, image * target], dim=1)
    channels = moments.shape[1]
    rows = weights.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
    # fp32 whatever the surroundings: variances are differences of near numbers.
    with torch.autocast(image.device.type, enabled=False):
        blurred = F.conv2d(moments, rows, groups=channels)
        blurred = F.conv2d(blurred, rows.mT, groups=channels)
    mean_x, mean_y, square_x, square_y, product = blurred.chunk(5, dim=1)
    variance = square_x - mean_x**2 + square_y - mean_y**2
    covariance = product - mean_x * mean_y
    structure = (2 * covariance + SSIM_C2) / (variance + SSIM_C2)
    brightness = (2 * mean_x * mean_y + SSIM_C1) / (mean_x**2 + mean_y**2 + SSIM_C1)
    return (structure * brightness).mean(dim=(1, 2, 3))


def psnr(image_B3HW: Tensor, target_B3HW: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (B,) in dB of pictures in [-1,1], the first one clamped."""
    error = (image_B3HW.clamp(-1, 1) - target_B3HW).float().div(2).square().mean(dim=(1, 2, 3))
    return -10 * error.clamp_min(1e-10).log10()


def resized(image_B3HW: Tensor, size: Sequence[int]) -> Tensor:
    """A picture at another size, antialiased: the target of a reconstruction of that size."""
    if tuple(image_B3HW.shape[-2:]) == tuple(size):
        return image_B3HW
    return F.interpolate(image_B3HW.float(), size=list(size), mode="bilinear", antialias=True)
