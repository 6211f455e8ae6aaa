"""LPIPS: distance of deep features, with weights that the user brings."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from flexvar.components import Loss
from flexvar.config import ComponentConfig
from flexvar.errors import FlexvarError


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
