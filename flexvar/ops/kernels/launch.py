"""What the launches of all kernels have in common."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def on(x: Tensor) -> AbstractContextManager[object]:
    """Inside, the device of a tensor is the current one, on which Triton launches."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def warps(block: int) -> int:
    """Warps of a program over so many numbers: 8 a thread, if that can be."""
    return max(1, min(16, block // 256))
