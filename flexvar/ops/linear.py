"""Linear layers, with the GELU behind them, by the fastest product that is there."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flexvar.errors import FlexvarError
from flexvar.ops import fusion, int8
from flexvar.ops.fusion import Fusion
from flexvar.ops.precision import computing_dtype

# Multiplications below which torch's own steps are the faster ones, without and with a GELU behind.
# oneDNN makes its code anew for every shape, which takes about 1 ms, and costs 25 to 50 us a call:
# 16 x 192 by 192 takes 107 us instead of 27, 256 x 192 by 192 takes 326 instead of 310, and
# 512 x 1024 by 1024 takes 15 ms instead of 20 (fp32, one Ice Lake core); with GELU 16 x 192 by 192
# takes 138 instead of 121, and 100 x 192 by 768 takes 0.85 ms instead of 2.3. Of large weights
# even a few rows are worth it: 8 x 1024 by 3072 takes 1.0 ms instead of 1.4 in fp32, 0.51 instead
# of 0.75 in bf16 (one Zen 5 core).
LEAST, LEAST_GELU, LEAST_WEIGHT = 2**26, 2**20, 2**20
# Bytes of weights above which none are held twice, and how many weights of a layer are compared
# with those that were copied.
MOST_ORDERED, COMPARED = 2**31, 64


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> Tensor:
    """``x @ weight.T + bias``, then GELU (tanh) if asked; (..., in) -> (..., out).

    Where no gradient is needed on a CPU, bias and GELU are part of oneDNN's product: on two Zen 4
    cores 512 x 1024 by 4096 with GELU takes 11.9 ms instead of 14.1 in bf16, and 22 instead of 37
    in fp32, where the usual product is MKL's. Else as `plain`; both agree to rounding.
    """
    return (_fused if _fuses(x, weight, gelu) else plain)(x, weight, bias, gelu=gelu)


def _fused(x: Tensor, weight: Tensor, bias: Tensor | None, *, gelu: bool) -> Tensor:
    """oneDNN's product; it takes weights in its own order too."""
    activation, algorithm = ("gelu", "tanh") if gelu else ("none", "")
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], algorithm)


def plain(x: Tensor, weight: Tensor, bias: Tensor | None, *, gelu: bool = False) -> Tensor:
    """The definition of `linear`, in torch's own steps."""
    y = F.linear(x, weight, bias)
    if not gelu:
        return y
    if torch.is_grad_enabled():
        return F.gelu(y, approximate="tanh")
    return torch.ops.aten.gelu_(y, approximate="tanh")  # in its own memory, which is the most


class Ordered(NamedTuple):
    """A copy of weights in oneDNN's order, and what tells whether they are still the same."""

    of: tuple[int, int, torch.dtype] | None
    some: Tensor | None
    values: Tensor | None

    def __deepcopy__(self, memo: dict[int, Any]) -> Ordered:
        """Itself: a copied layer has other weights, and makes a copy of its own."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        """Nothing: another process makes its own."""
        return Ordered, (None, None, None)


class Linear(nn.Linear):
    """`torch.nn.Linear` through `linear`; gelu: with GELU (tanh) behind it.

    After `to_int8` the weights are where oneDNN has them: the parameter keeps their shape, on the
    meta device. fused: see `flexvar.ops.fusion`.
    """

    packed: int8.Packed | None = None
    # Whether a copy is kept in oneDNN's order, see `keep_ordered`, and the copy.
    ordered = False
    _copy: Ordered | None = None
    fused = False

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True, gelu: bool = False) -> None:
        super().__init__(inputs, outputs, bias=bias)
        self.gelu = gelu

    @property
    def fusions(self) -> tuple[Fusion, ...]:
        """See `flexvar.ops.fusion`."""
        return (LINEAR_GELU,) if self.gelu else ()

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """(..., in) -> (..., out). bias: in place of the layer's own."""
        bias = self.bias if bias is None else bias
        if self.packed is not None:
            return int8.product(x, self.packed, bias, gelu=self.gelu)
        if self.ordered and not self.training and _fuses(x, self.weight, self.gelu):
            return _fused(x, self._in_order(), bias, gelu=self.gelu)
        if self.fused and self.gelu and _one_product(x, self.weight, bias):
            return _with_gelu(x, self.weight, bias)[0]
        return linear(x, self.weight, bias, gelu=self.gelu)

    def _in_order(self) -> Tensor:
        weight, copy = self.weight, self._copy
        if weight.is_inference() or not weight.is_contiguous():
            return weight  # of the first nothing tells whether they changed
        now = weight.data_ptr(), weight._version, weight.dtype
        # Fused optimizers and what goes through `.data` change weights and no version.
        some = weight.detach().view(-1)[:: weight.numel() // COMPARED | 1]
        if copy is None or copy.of != now or not torch.equal(cast(Tensor, copy.some), some):
            values = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)
            copy = self._copy = Ordered(now, some.clone(), values)
        return cast(Tensor, copy.values)

    def _load_from_state_dict(self, *given: Any) -> None:
        if self.packed is not None:  # torch would warn, and load all else
            raise FlexvarError(
                "load_state_dict: this model is in int8, which takes no weights; load them in "
                "fp32 (to('fp32')), then bring it to int8."
            )
        super()._load_from_state_dict(*given)

    @torch.no_grad()
    def to_int8(self) -> None:
        """Hold the weights in int8 from now on. Raises `FlexvarError` where that cannot be."""
        self.packed, self._copy = int8.pack(self.weight), None
        shape = torch.empty_like(self.weight, dtype=torch.int8, device="meta")
        self.weight = nn.Parameter(shape, requires_grad=False)


def keep_ordered(module: nn.Module, wanted: bool) -> None:
    """Let every large `Linear` inside keep a copy of its weights in oneDNN's order, or none.

    oneDNN puts weights in order at every call, which for a few rows takes longer than the product:
    8 x 1024 by 3072 takes 0.34 ms instead of 0.51 in bf16, 512 rows 6.9 instead of 7.3 (one Zen 5
    core), to the same bits. The copy is made when it is first used, without gradients, and made
    anew when the weights have changed. What goes through `.data` to a few weights alone is not
    noticed: call this again then. Not above `MOST_ORDERED` bytes in all.
    """
    wanted = wanted and ordered_bytes(module) > 0
    large = {id(layer) for layer in _large(module)}
    for part in module.modules():
        if isinstance(part, Linear):
            part.ordered, part._copy = wanted and id(part) in large, None


def ordered_bytes(module: nn.Module) -> int:
    """Bytes of the copies that `keep_ordered` would let it keep."""
    size = sum(layer.weight.nbytes for layer in _large(module))
    return size if size <= MOST_ORDERED else 0


def _large(module: nn.Module) -> list[Linear]:
    layers = [part for part in module.modules() if isinstance(part, Linear)]
    there = [one for one in layers if one.weight.dtype in _fused_dtypes()]
    return [one for one in there if one.weight.numel() >= LEAST_WEIGHT]


def to_int8(module: nn.Module) -> None:
    """Bring the weights of every `Linear` inside to int8.

    Raises `FlexvarError` where that cannot be, and if there is none.
    """
    layers = [part for part in module.modules() if isinstance(part, Linear)]
    if not layers:
        raise FlexvarError(
            f"dtype: {type(module).__name__} has no layer that can be in int8, a "
            "flexvar.ops.linear.Linear; take bf16."
        )
    for layer in layers:
        layer.to_int8()


def were_exact(module: nn.Module, weights: Mapping[str, Tensor]) -> bool:
    """Whether exact weights, by their names, are the ones that `to_int8` rounded."""
    known = ((weights.get(f"{name}.weight"), packed) for name, _, packed in _in_int8(module))
    return all(
        packed.values is None or (exact is not None and int8.came_from(packed, exact))
        for exact, packed in known
    )


def from_int8(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Undo `to_int8`: put exact weights, by their names, where they are in int8."""
    for name, layer, packed in _in_int8(module):
        shape = layer.weight.float()  # on the meta device
        exact = shape if packed.values is None else weights[f"{name}.weight"]
        layer.weight, layer.packed = nn.Parameter(exact.to(packed.step_N.device)), None


def _in_int8(module: nn.Module) -> list[tuple[str, Linear, int8.Packed]]:
    return [
        (name, part, part.packed)
        for name, part in module.named_modules()
        if isinstance(part, Linear) and part.packed is not None
    ]


def _one_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    """Whether bias and GELU are part of CUDA's product: of one dtype, for no gradient."""
    return (
        x.device.type == "cuda"  # a CPU takes another GELU there
        and not torch.is_grad_enabled()
        and bias is not None
        and x.dtype == weight.dtype
        and computing_dtype(x) == x.dtype
        and fusion.takes(LINEAR_GELU, x)
    )


def _with_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor]:
    # torch's own way to cuBLASLt's products that end in a GELU, the one by tanh.
    y = torch._addmm_activation(bias, x.flatten(0, -2), weight.mT, use_gelu=True)
    return (y.unflatten(0, x.shape[:-1]),)


def _gelu_case(source: torch.Generator, *sizes: int) -> tuple[Tensor, Tensor, Tensor]:
    length, inputs, outputs = sizes
    x, weight = (torch.randn(n, inputs, generator=source) for n in (length, outputs))
    return x[None], weight / inputs**0.5, torch.randn(outputs, generator=source)


# Not Triton's: cuBLASLt's own, through torch.
LINEAR_GELU = Fusion(
    "linear_gelu",
    "linear layer with GELU, in one product of cuBLASLt",
    lambda x, weight, bias: (plain(x, weight, bias, gelu=True),),
    _with_gelu,
    lambda source: iter([_gelu_case(source, 2, 16, 24), _gelu_case(source, 5, 8, 64)]),
    lambda source: _gelu_case(source, 512, 1024, 4096),
    slack=2.0,
)


def _fuses(x: Tensor, weight: Tensor, gelu: bool) -> bool:
    return (
        not torch.compiler.is_compiling()
        and not torch.is_grad_enabled()
        and x.device.type == "cpu"
        and x.dtype == weight.dtype
        and x.dtype in _fused_dtypes()
        # Sharded weights and other subclasses know only torch's public operators.
        and type(weight) in (Tensor, nn.Parameter)
        and type(x) is Tensor
        and (
            x.numel() * weight.shape[0] >= (LEAST_GELU if gelu else LEAST)
            or (x.numel() > 0 and weight.numel() >= LEAST_WEIGHT)
        )
        and not torch.is_autocast_enabled("cpu")
    )


@cache
def _fused_dtypes() -> frozenset[torch.dtype]:
    """The dtypes that oneDNN's operator takes here: probed, since it is no public one."""
    found = set()
    for dtype in (torch.float32, torch.bfloat16):
        if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            continue
        one = torch.ones(2, 3, dtype=dtype, device="cpu")
        with torch.no_grad():
            try:
                y = torch.ops.mkldnn._linear_pointwise(one, one, one[:, 0], "gelu", [], "tanh")
            except (AttributeError, RuntimeError, NotImplementedError):
                continue
            if torch.allclose(y, plain(one, one, one[:, 0], gelu=True), atol=2e-2):
                found.add(dtype)
    return frozenset(found)
