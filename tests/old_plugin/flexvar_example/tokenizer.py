"""A tokenizer without convolutions over the picture: patches, a linear map, the nearest code."""

import torch
import torch.nn.functional as F
from torch import nn

import flexvar


class Patches(nn.Module):
    """Every scale is the whole picture: its latent, averaged to the grid, code by code."""

    class Config(flexvar.ComponentConfig):
        """Options: side of a patch in pixels, number of codes and their length."""

        patch: int = 4
        vocab_size: int = 32
        code_dim: int = 6

        @property
        def space(self):
            """The tokens these options lead to."""
            return flexvar.TokenSpace(self.vocab_size, self.code_dim, self.patch)

    # In bf16 near codes would be one.
    keep_fp32 = frozenset({"codes"})

    def __init__(self, config, *, facts):
        super().__init__()
        self.space = config.space
        patch, channels = config.patch, config.code_dim
        self.encoder = nn.Conv2d(3, channels, patch, stride=patch)
        self.decoder = nn.ConvTranspose2d(channels, 3, patch, stride=patch)
        self.codes = nn.Parameter(torch.randn(config.vocab_size, channels))

    def features(self, image_B3HW):
        """The latent (B,C,h,w), fp32. Raises `FlexvarError` unless it is whole patches."""
        height, width = image_B3HW.shape[-2:]
        if height % self.space.stride or width % self.space.stride:
            raise flexvar.FlexvarError(
                f"An image of {height}x{width} pixels is no whole number of patches of "
                f"{self.space.stride} pixels; resize it."
            )
        return self.encoder(image_B3HW.to(self.encoder.weight.dtype)).float()

    def quantize(self, latent_BChw, layout):
        """One (B,h,w) int64 map per grid: the nearest code of each averaged cell."""
        maps = []
        for grid in layout:
            cells = F.adaptive_avg_pool2d(latent_BChw, tuple(grid)).permute(0, 2, 3, 1)
            distances = (cells[..., None, :] - self.codes.float()).square().sum(dim=-1)
            maps.append(distances.argmin(dim=-1))
        return tuple(maps)

    def encode(self, image_B3HW, layout):
        """One (B,h,w) int64 map per grid."""
        return self.quantize(self.features(image_B3HW), layout)

    def lookup(self, index_Bhw):
        """The codes (B,C,h,w), fp32."""
        return F.embedding(index_Bhw, self.codes).float().permute(0, 3, 1, 2)

    def fold(self, latent_BChw, code_BChw, layout, step):
        """A scale is the whole picture, so its codes are the latent."""
        return code_BChw

    def resize(self, latent_BChw, grid):
        """The latent at another grid."""
        return F.interpolate(latent_BChw, size=tuple(grid), mode="bilinear")

    def decode(self, latent_BChw):
        """The image (B,3,H,W), fp32."""
        return self.decoder(latent_BChw.to(self.decoder.weight.dtype)).float()
