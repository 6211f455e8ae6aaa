"""Kernels that do several of torch's steps in one launch: when one is taken, and whether it agrees.

A fusion is one function in two ways: ``plain``, in torch's own steps, which is its definition, and
``fused``, operators with a Triton kernel behind them. A module with the attribute ``fused`` takes
the kernels where that is on (`use`) and its tensors are on CUDA, each once it has agreed with the
plain way on that device in this process: such kernels are known to have been wrong, or to crash,
on single generations of GPUs. Those that it names in ``fusions`` are tried when kernels are
switched on, others when they are first asked for.
"""

from __future__ import annotations

import importlib
import logging
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from flexvar.errors import first_line

INSTALL = "pip install triton (Linux; torch for CUDA brings it along)"
# How far a result may be from the plain one, as a share of the largest number in it or of 1. Plain
# steps round to their dtype one by one, a kernel once at the end.
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}
TIMED, CALLS = 9, 20
_log = logging.getLogger("flexvar")
_library = torch.library.Library("flexvar", "FRAGMENT")

Function = Callable[..., Sequence[Tensor]]
# By name: all that were imported, the plugins' too.
KNOWN: dict[str, Fusion] = {}
# Kernels that one call of an operator is, if it is not 1: a number, or a function of its arguments.
LAUNCHES: dict[str, int | Callable[..., int]] = {}


@dataclass(frozen=True, slots=True, eq=False)
class Fusion:
    """One function in two ways, which return the same: what they make, and what they wrote to.

    does: a few words for `flexvar doctor`. cases: small and odd arguments to compare both with, and
    usual: such as generation has, compared and timed; both fp32 on the CPU. gradients: whether
    training takes the kernel, so that gradients of all arguments have to agree too. slack: a factor
    on `TOLERANCE`.
    """

    name: str
    does: str
    plain: Function
    fused: Function
    cases: Callable[[torch.Generator], Iterator[tuple[Any, ...]]]
    usual: Callable[[torch.Generator], tuple[Any, ...]]
    dtypes: tuple[torch.dtype, ...] = (torch.float32, torch.bfloat16)
    gradients: bool = False
    slack: float = 1.0

    def __post_init__(self) -> None:
        KNOWN[self.name] = self


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a kernel may be taken on a device; reason: why not, or how far apart both ways are.

    apart: the largest difference, as a share of what is allowed.
    """

    agrees: bool
    reason: str
    apart: float = 0.0


# By name of the fusion and of the device.
_verdicts: dict[tuple[str, str], Verdict] = {}
_trusted: set[str] = set()


def use(module: nn.Module, on: bool) -> int:
    """Let the modules inside a module that can take kernels do so, or not; how many these are."""
    able = [one for one in module.modules() if hasattr(type(one), "fused")]
    for one in able:
        one.fused = on  # type: ignore[assignment]
    return len(able)


def used(module: nn.Module) -> dict[str, Fusion]:
    """What the modules inside a module where kernels are on name in ``fusions``, by name."""
    on = [one for one in module.modules() if getattr(one, "fused", False)]
    return {fusion.name: fusion for one in on for fusion in getattr(one, "fusions", ())}


def takes(fusion: Fusion, like: Tensor) -> bool:
    """Whether a kernel may work on the device of a tensor; the first time there it is tried."""
    where = str(like.device)
    if where in _trusted:
        return True
    verdict = _verdicts.get((fusion.name, where))
    if verdict is not None:
        return verdict.agrees
    if like.device.type != "cuda" or torch.compiler.is_compiling():
        return False
    if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
        return False
    return verdict_on(fusion, like.device).agrees


def verdict_on(fusion: Fusion, device: torch.device) -> Verdict:
    """Whether a kernel agrees on a device; tried once a process, and logged."""
    device = torch.empty(0, device=device).device  # with its number
    key = fusion.name, str(device)
    if key not in _verdicts:
        verdict = _verdicts[key] = compare(fusion, device)
        say = _log.info if verdict.agrees else _log.warning
        taken = "taken" if verdict.agrees else "not taken"
        say("kernel %s on %s: %s (%s)", fusion.name, device, taken, verdict.reason)
    return _verdicts[key]


@contextmanager
def trusted(device: str) -> Iterator[None]:
    """Inside, kernels are taken on a device without a trial.

    For tensors without numbers, and for a CPU where Triton interprets its kernels.
    """
    _trusted.add(device)
    try:
        yield
    finally:
        _trusted.discard(device)


def compare(fusion: Fusion, device: torch.device) -> Verdict:
    """Both ways on all cases in every dtype, gradients included where training takes the kernel."""
    worst = 0.0
    try:
        for dtype in fusion.dtypes:
            source = torch.Generator().manual_seed(0)
            every = [
                *fusion.cases(source),
                *([fusion.usual(source)] if device.type != "cpu" else []),
            ]
            for number, arguments in enumerate(every):
                of = f"{_name(dtype)}, case {number}"
                ours = results(fusion, fusion.fused, arguments, device, dtype)
                plain = results(fusion, fusion.plain, arguments, device, dtype)
                for what, one in plain.items():
                    apart = _apart(ours[what], one, fusion.slack * TOLERANCE[dtype])
                    if not apart <= 1:
                        return Verdict(False, f"{what} differs in {of}: {apart:.3g} x", apart)
                    worst = max(worst, apart)
    except Exception as error:  # no Triton, no compiler, a kernel that cannot run there
        return Verdict(False, f"{type(error).__name__}: {first_line(error)}"[:200])
    return Verdict(True, f"agrees, {worst:.2g} of the tolerance", worst)


def results(
    fusion: Fusion,
    function: Function,
    arguments: Sequence[Any],
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """What a function makes of copies of arguments, and its gradients if the fusion has any."""
    with torch.inference_mode(False), torch.set_grad_enabled(fusion.gradients):
        given = [_moved(one, device, dtype) for one in arguments]
        inputs = [one for one in given if isinstance(one, Tensor) and one.is_floating_point()]
        if fusion.gradients:
            for one in inputs:
                one.requires_grad_()
        with torch.autocast(device.type, enabled=False):
            made = list(function(*given))
        found = {f"result {number}": one.detach() for number, one in enumerate(made)}
        if fusion.gradients:
            source = torch.Generator().manual_seed(1)
            ways = [torch.randn(one.shape, generator=source).to(one) for one in made]
            gradients = torch.autograd.grad(made, inputs, ways)
            found |= {f"gradient {number}": one for number, one in enumerate(gradients)}
        return found


def seconds(fusion: Fusion, device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Seconds of one usual call, plain and fused: medians of ways that take turns.

    Without gradients, launches included.
    """
    usual = fusion.usual(torch.Generator().manual_seed(0))
    given = [_moved(one, device, dtype) for one in usual]
    times: dict[Function, list[float]] = {fusion.plain: [], fusion.fused: []}
    with torch.inference_mode():
        for _ in range(TIMED + 1):
            for function, taken in times.items():
                _wait(device)
                begun = time.perf_counter()
                for _ in range(CALLS):
                    function(*given)
                _wait(device)
                taken.append((time.perf_counter() - begun) / CALLS)
    plain, fused = (statistics.median(one[1:]) for one in times.values())
    return plain, fused


def operator(
    schema: str,
    fake: Callable[..., Any],
    module: str,
    launches: int | Callable[..., int] = 1,
) -> Callable[..., Any]:
    """The operator ``torch.ops.flexvar.NAME`` of a schema; opaque to compilers, traced by ``fake``.

    module: where Triton's code is, in a function of the same name, imported at the first call.
    launches: see `LAUNCHES`.
    """
    name = schema.split("(")[0]
    LAUNCHES[name] = launches

    def run(*arguments: Any) -> Any:
        return getattr(importlib.import_module(module), name)(*arguments)

    _library.define(schema)
    _library.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"flexvar::{name}", fake, lib=_library)
    return getattr(torch.ops.flexvar, name).default


def why_not() -> str:
    """Why there are no kernels here at all; empty if there may be."""
    try:
        importlib.import_module("triton")
    except Exception as error:
        return f"triton: {type(error).__name__}: {first_line(error)}"
    return ""


def _moved(value: Any, device: torch.device, dtype: torch.dtype) -> Any:
    if not isinstance(value, Tensor):
        return value
    dtype = dtype if value.dtype == torch.float32 else value.dtype
    # Slices stay slices: kernels are given such.
    held = value.untyped_storage().nbytes() // value.element_size()
    whole = value.detach().as_strided((held,), (1,), 0).to(device, dtype, copy=True)
    return whole.as_strided(value.shape, value.stride(), value.storage_offset())


def _apart(ours: Tensor, plain: Tensor, tolerance: float) -> float:
    """The largest difference as a share of what is allowed; infinite for another shape or a NaN."""
    if ours.shape != plain.shape:
        return float("inf")
    if not plain.numel():
        return 0.0
    if not plain.is_floating_point():
        return 0.0 if torch.equal(ours, plain) else float("inf")
    one, other = ours.double(), plain.double()
    apart = float((one - other).abs().max() / other.abs().max().clamp_min(1))
    return apart / tolerance if apart == apart else float("inf")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
