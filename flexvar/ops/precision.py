"""Weights in another precision, all but the ones that have to stay in fp32."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from flexvar.errors import FlexvarError

DTYPES = {
    "fp32": torch.float32,
    "float32": torch.float32,
    "bf16": torch.bfloat16,
    "bfloat16": torch.bfloat16,
    "fp16": torch.float16,
    "float16": torch.float16,
    # Of linear layers alone, see `flexvar.ops.int8`.
    "int8": torch.int8,
}


def parse_dtype(value: str | torch.dtype) -> torch.dtype:
    """A torch dtype by name. Raises `FlexvarError` for one that weights cannot have."""
    if isinstance(value, torch.dtype) and value in DTYPES.values():
        return value
    if isinstance(value, str) and value in DTYPES:
        return DTYPES[value]
    raise FlexvarError(f"dtype: got {value}; expected fp32, bf16, fp16 or int8.")


def parse_device(value: str | torch.device) -> torch.device:
    """A torch device by name; ``auto`` is CUDA where there is one.

    Raises `FlexvarError` for one this machine or build of torch does not have.
    """
    if value == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(value)
        torch.empty(0, device=device)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise FlexvarError(f"device: {value} cannot be used here ({reason}); try cpu.") from None
    return device


def computing_dtype(like: torch.Tensor) -> torch.dtype:
    """The dtype that matrix products of a tensor run in: autocast's where that is on, else its own.

    A kernel is chosen by it: in mixed precision weights and the stream of activations are fp32.
    """
    kind = like.device.type
    # The meta device has no autocast to ask for.
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return like.dtype


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Inside, convolutions of fp32 are done in fp32 on CUDA too.

    Where tokens are decided: cuDNN takes TF32 unless told, which rounds to 10 bits, and up to 0.4 %
    of the tokens of an encoder became others by it (emulated). Matrix products need no word: torch
    leaves them in fp32 unless an application asks for TF32.
    """
    convolutions = getattr(torch.backends.cudnn, "conv", None)
    if convolutions is None:  # torch before 2.9
        before = torch.backends.cudnn.allow_tf32
        torch.backends.cudnn.allow_tf32 = False
        try:
            yield
        finally:
            torch.backends.cudnn.allow_tf32 = before
        return
    precision = convolutions.fp32_precision
    convolutions.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = precision


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The tensor on a device; nothing waits for a copy from the host to a GPU."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def cast(module: nn.Module, dtype: torch.dtype) -> None:
    """Bring floating-point weights to ``dtype``, in place.

    A module names the weights of its own that stay in fp32 - a codebook, a state-space decay -
    in the class attribute ``keep_fp32``.
    """
    for part in module.modules():
        kept: frozenset[str] = getattr(part, "keep_fp32", frozenset())
        for name, parameter in part.named_parameters(recurse=False):
            if parameter.is_floating_point():
                wanted = torch.float32 if name in kept else dtype
                parameter.data = parameter.data.to(wanted)
        for name, buffer in part.named_buffers(recurse=False):
            if buffer.is_floating_point():
                setattr(part, name, buffer.to(torch.float32 if name in kept else dtype))
