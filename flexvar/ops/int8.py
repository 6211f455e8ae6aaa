"""Linear layers in int8 on a CPU: weights by output channel, inputs by token, oneDNN's product.

Both are symmetric: a row of numbers is a step times integers of -127 to 127, the step following
from the row's greatest magnitude (Jacob et al., arXiv 1712.05877, section 2; there with a zero
point). Nothing of a token depends on the others beside it.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from flexvar.errors import FlexvarError, first_line

# The greatest magnitude over the step: below 127, so that a step that was rounded to bf16, which
# moves it by 0.2 %, still leads to no greater integer. And a magnitude that counts as zero.
STEPS, LEAST_MAGNITUDE = 126.5, 1e-12
# oneDNN's fast kernels take inputs of 0 to 255 only, of which this is zero; for signed ones it has
# a reference that takes thousands of times as long.
ZERO = 128
# A product that takes so many times as long as one of fp32 is no fast kernel's.
SLOW = 10


class Packed(NamedTuple):
    """Weights (out,in) in int8, in the order that oneDNN wants, and a step (out) fp32 for each row.

    values: opaque; None on the meta device. zero_N: zeros, as oneDNN asks for them. digest: of the
    integers and the steps, for who wants to know whether two models are the same.
    """

    values: Tensor | None
    step_N: Tensor
    zero_N: Tensor
    digest: bytes = b""

    def __deepcopy__(self, memo: dict[int, Any]) -> Packed:
        """Itself: nobody can change it, and torch cannot copy what is opaque."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Nothing: the order is this machine's. Raises `FlexvarError`."""
        raise FlexvarError(
            "pickle: a model in int8 has its weights in an order of this machine's own; bring it "
            "to fp32 first (to('fp32')), or load it where it is wanted."
        )


def rounded(x_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Integers (N,K) int8 and a step (N,1) for each row, whose product is about ``x_NK``."""
    # Two of torch's reductions are ten times as fast as one of vector_norm, and faster in fp32.
    wide_NK = x_NK.float()
    greatest_N1, least_N1 = wide_NK.amax(-1, keepdim=True), wide_NK.amin(-1, keepdim=True)
    magnitude_N1 = torch.maximum(greatest_N1, least_N1.neg_())
    step_N1 = (magnitude_N1.clamp_min_(LEAST_MAGNITUDE) / STEPS).to(x_NK.dtype)
    per_step_N1 = step_N1.float().reciprocal()
    scaled_NK = x_NK * per_step_N1 if wide_NK is x_NK else wide_NK.mul_(per_step_N1)
    return scaled_NK.round_().to(torch.int8), step_N1


def pack(weight_NK: Tensor) -> Packed:
    """Weights (out,in) for `product`. Raises `FlexvarError` where there is no such product."""
    if weight_NK.is_meta:
        rows = weight_NK.new_empty(len(weight_NK), dtype=torch.float32)
        return Packed(None, rows, rows)
    check(weight_NK.device)
    return _pack(weight_NK)


def _pack(weight_NK: Tensor) -> Packed:
    # oneDNN's packing does not look at strides.
    values_NK, step_N1 = rounded(weight_NK.detach().float().contiguous())
    zero_N = torch.zeros(len(weight_NK), dtype=torch.int32, device=weight_NK.device)
    values = torch.ops.onednn.qlinear_prepack(values_NK, None)
    return Packed(values, step_N1.flatten(), zero_N, _digest(values_NK, step_N1))


def _digest(values_NK: Tensor, step_N1: Tensor) -> bytes:
    return hashlib.sha256(values_NK.numpy().tobytes() + step_N1.numpy().tobytes()).digest()


def came_from(packed: Packed, weight_NK: Tensor) -> bool:
    """Whether weights (out,in) on a CPU are rounded to the ones that were packed."""
    return packed.digest == _digest(*rounded(weight_NK.detach().float()))


def product(x: Tensor, weight: Packed, bias_N: Tensor | None, *, gelu: bool = False) -> Tensor:
    """``x @ weight.T + bias``, then GELU if asked; (..., in) -> (..., out), in the dtype of x.

    Of GELU the exact form, which oneDNN has in a third of the time of the one with tanh: they
    differ by 5e-4 at most, a small share of a step of what comes next.
    Raises `FlexvarError` where a gradient is wanted: integers have none.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        raise FlexvarError(
            "dtype: a model in int8 cannot be trained, its weights are integers; load it in fp32."
        )
    if x.is_meta:
        return x.new_empty(*x.shape[:-1], len(weight.step_N))
    return _product(x, weight, bias_N, gelu)


def _product(x: Tensor, weight: Packed, bias_N: Tensor | None, gelu: bool) -> Tensor:
    values_MK, step_M1 = rounded(x.reshape(-1, x.shape[-1]))
    y_MN = integers(values_MK.view(torch.uint8).bitwise_xor_(ZERO), weight, x.dtype)
    y_MN = y_MN.mul_(step_M1) if bias_N is None else torch.addcmul(bias_N, y_MN, step_M1)
    return (F.gelu(y_MN) if gelu else y_MN).view(*x.shape[:-1], len(weight.step_N))


def integers(values_MK: Tensor, weight: Packed, dtype: torch.dtype) -> Tensor:
    """Weights times integers (M,in) uint8, of which 128 is zero; (M,out) in a dtype.

    oneDNN takes one step for all tokens, 1 here; theirs come after.
    """
    return torch.ops.onednn.qlinear_pointwise(
        values_MK, 1.0, ZERO, weight.values, weight.step_N, weight.zero_N,
        None, 1.0, 0, dtype, "none", [], "",
    )  # fmt: skip


def plain(x: Tensor, weight_NK: Tensor, bias_N: Tensor | None, *, gelu: bool = False) -> Tensor:
    """The definition of `product`, in fp32: both sides rounded, then multiplied as real numbers."""
    x_values, x_step = rounded(x)
    values, step = rounded(weight_NK.float())
    y = F.linear(
        x_values.float() * x_step.float(),
        values * step,
        None if bias_N is None else bias_N.float(),
    )
    return (F.gelu(y) if gelu else y).to(x.dtype)


def check(device: torch.device) -> None:
    """Raise `FlexvarError` where linear layers cannot be had in int8, with the reason."""
    if device.type == "meta":
        return
    if device.type != "cpu":
        raise FlexvarError(
            f"dtype: int8 is of a CPU, the model is on {device}; take bf16 there, or device cpu."
        )
    if why := why_not():
        raise FlexvarError(f"dtype: int8 cannot be had here: {why}. Take fp32 or bf16.")


@cache
def why_not() -> str:
    """Why there is no product of int8 here; empty if there is one: tried, as no operator is public.

    On macOS and in builds without oneDNN there is none, on old CPUs none that is fast.
    """
    # Great integers beside each other: CPUs without VNNI have kernels that overflow at them.
    x, weight = (
        torch.linspace(0.9, 1, n * 256, dtype=torch.float32, device="cpu").view(n, 256)
        for n in (64, 256)
    )
    with torch.inference_mode():
        try:
            packed = _pack(weight)
            found = _product(x, packed, None, False)
        except (AttributeError, RuntimeError, NotImplementedError) as error:
            return f"this build of torch has no operator of oneDNN for it ({first_line(error)})"
        if not torch.allclose(found, plain(x, weight, None), rtol=1e-3):
            return "oneDNN's product of integers overflows on this CPU"
        exact = _seconds(lambda: F.linear(x, weight))
        if _seconds(lambda: _product(x, packed, None, False)) > SLOW * exact:
            return "oneDNN has no fast product of integers for this CPU"
    return ""


def _seconds(run: Callable[[], Any]) -> float:
    """The least CPU time of three, which other processes add little to."""
    seconds = []
    for _ in range(3):
        begun = time.process_time()
        run()
        seconds.append(time.process_time() - begun)
    return min(seconds)


def rest() -> torch.dtype:
    """The dtype of all that is not in int8: bf16 where a CPU multiplies it, else fp32."""
    there = torch.backends.mkldnn.is_available()
    fast = there and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if fast else torch.float32
