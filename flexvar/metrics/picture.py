"""How near a picture is to its target: PSNR and SSIM, per picture."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# SSIM's window (Wang et al., 2004, take 11 with sigma 1.5; 7 fits pictures of 8 px).
SSIM_WINDOW, SSIM_SIGMA = 7, 1.5
SSIM_C1, SSIM_C2 = 0.01**2, 0.03**2


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
