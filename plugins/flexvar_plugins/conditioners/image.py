"""A picture -> a pooled vector and tokens: variations of a picture, seen by a small encoder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from flexvar import ComponentConfig, Condition, Facts, FlexvarError
from flexvar.images import open_image, to_tensor
from flexvar.ops.linear import Linear

Inputs = tuple[Tensor, Tensor]
# Groups of the norms; channels are a multiple of it.
GROUPS = 8


class ImageConfig(ComponentConfig):
    """Options of `ImageConditioner`.

    size: pixels a side at which a picture is looked at. levels: times that its sides are halved;
    the tokens are the cells that are left. channels: of the first level; each has twice as many.
    """

    size: int = Field(default=64, ge=4, le=1024)
    levels: int = Field(default=4, ge=1, le=8)
    channels: int = Field(default=32, ge=GROUPS)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.size % 2**self.levels:
            raise ValueError(
                f"size {self.size} is no multiple of {2**self.levels}, as {self.levels} levels "
                "halve it so often"
            )
        if self.channels % GROUPS:
            raise ValueError(f"channels {self.channels} is no multiple of {GROUPS}")
        return self


class ImageConditioner(nn.Module):
    """A picture -> what a model reads: convolutions that halve it, then a vector per cell.

    Inputs are pixels (B,3,size,size) in [-1,1] and whether there is a picture at all (B,1). A
    value is a path, a Pillow image, or a (3,H,W) tensor in [0,1]; it is squeezed to a square.
    """

    Config: ClassVar[type[ComponentConfig]] = ImageConfig
    gives: ClassVar[frozenset[str]] = frozenset({"pooled", "tokens"})
    takes: ClassVar[str] = "image"
    contract_options: ClassVar[tuple[dict[str, Any], ...]] = (
        {"size": 8, "levels": 2, "channels": 8},
    )

    @staticmethod
    def contract_values(config: ImageConfig) -> tuple[Tensor, Tensor]:
        """Two pictures for the contract."""
        del config
        source = torch.Generator("cpu").manual_seed(0)
        noise = torch.rand(2, 3, 9, 7, generator=source, dtype=torch.float32, device="cpu")
        return noise[0], noise[1]

    def __init__(self, config: ImageConfig, *, facts: Facts) -> None:
        super().__init__()
        self.config = config
        channels = [config.channels * 2**level for level in range(config.levels)]
        self.levels = nn.ModuleList(
            nn.Conv2d(before, after, 4, stride=2, padding=1)
            for before, after in zip([3, *channels], channels, strict=False)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, count) for count in channels)
        self.nothing = nn.Parameter(torch.empty(channels[-1]))
        self.pooled = Linear(channels[-1], facts.width)
        self.tokens = Linear(channels[-1], facts.width) if facts.reads_tokens else None
        self.initialise()

    @torch.no_grad()
    def initialise(self) -> None:
        """Fresh weights; `flexvar.NextScaleModel` calls it again."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
            elif isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=1 / math.sqrt(module.in_features))
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.nothing)

    def collate(self, values: Sequence[Any]) -> Inputs:
        """Pixels (B,3,size,size) in [-1,1] and whether there is a picture (B,1); None is none.

        Raises `FlexvarError` for what is no picture.
        """
        side = self.config.size
        pixels_B3HW = torch.zeros(len(values), 3, side, side, dtype=torch.float32, device="cpu")
        given_B1 = torch.zeros(len(values), 1, dtype=torch.bool, device="cpu")
        for row, value in enumerate(values):
            if value is None:
                continue
            image_3HW = _pixels(value)
            pixels_B3HW[row] = F.interpolate(
                image_3HW[None], (side, side), mode="bilinear", antialias=True, align_corners=False
            )[0]
            given_B1[row] = True
        return pixels_B3HW, given_B1

    def null(self, inputs: Inputs) -> Inputs:
        """No picture in any row."""
        return torch.zeros_like(inputs[0]), torch.zeros_like(inputs[1])

    def forward(self, inputs: Inputs) -> Condition:
        """The pooled vector (B,D), and the cells (B,1+T,D) if the backbone reads them."""
        pixels_B3HW, given_B1 = inputs
        x_BChw = pixels_B3HW.to(self.nothing.dtype)
        for convolution, norm in zip(self.levels, self.norms, strict=True):
            x_BChw = F.silu(norm(convolution(x_BChw)))
        cells_BTC = x_BChw.flatten(2).transpose(1, 2)
        # The first token is there without a picture too.
        first_BC = torch.where(given_B1, cells_BTC.mean(1), self.nothing)
        pooled_BD = self.pooled(first_BC)
        if self.tokens is None:
            return Condition(pooled_BD)
        all_BTC = torch.cat([first_BC[:, None], cells_BTC], dim=1)
        mask_BT = torch.cat([torch.ones_like(given_B1), given_B1.expand(-1, cells_BTC.shape[1])], 1)
        return Condition(pooled_BD, self.tokens(all_BTC) * mask_BT[..., None], mask_BT)


def _pixels(value: Any) -> Tensor:
    """(3,H,W) in [-1,1], fp32, of a path, a Pillow image or a tensor in [0,1]."""
    from pathlib import Path

    from PIL import Image

    from flexvar.images import to_rgb

    if isinstance(value, str | Path):
        return to_tensor(open_image(value))
    if isinstance(value, Image.Image):
        return to_tensor(to_rgb(value))
    if isinstance(value, Tensor) and value.ndim == 3 and value.shape[0] == 3:
        return value.detach().float().cpu().clamp(0, 1) * 2 - 1
    shown = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else repr(value)
    raise FlexvarError(
        f"prompt: got {shown}; this model takes pictures: a path, a Pillow image, a (3,H,W) tensor "
        "in [0,1], or None for no condition."
    )
