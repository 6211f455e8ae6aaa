"""What a row has to do, in FLOPs and bytes, and what the device can do at most."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness.measure import seconds_of
from flexvar import Layout, Pipeline
from flexvar.ops.linear import linear
from flexvar.ops.precision import parse_dtype

# Rows of the square product, and bytes copied: large enough to reach the rate, small enough for
# a second or two in all.
PRODUCT_CPU, PRODUCT_GPU = 1536, 8192
COPY_CPU, COPY_GPU = 2**27, 2**30
TRIES = 5


def rates(
    device: str, dtype: str, *, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Measured FLOP/s of a matrix product, and bytes/s read and written by a copy.

    The best of a few tries; on a CPU also of the product that `flexvar.ops.linear` takes, which in
    fp32 is twice as fast as torch's own on AMD's. Raises `RuntimeError` where no memory is left
    for them.
    """
    where = torch.device(device)
    if where.type == "cuda":
        torch.cuda.empty_cache()
    side = PRODUCT_CPU if where.type == "cpu" else PRODUCT_GPU
    a = torch.randn(side, side, device=where).to(parse_dtype(dtype))
    out = torch.empty_like(a)
    torch.mm(a, a, out=out)
    ways: list[Callable[[], Any]] = [lambda: torch.mm(a, a, out=out)]
    if where.type == "cpu":
        ways.append(lambda: linear(a, a, None))
    with torch.inference_mode():
        product = min(seconds_of(run, clock) for run in ways for _ in range(TRIES))
    size = COPY_CPU if where.type == "cpu" else COPY_GPU
    source = torch.ones(size, dtype=torch.uint8, device=where)
    target = torch.empty_like(source)
    target.copy_(source)
    seconds = min(seconds_of(lambda: target.copy_(source), clock) for _ in range(TRIES))
    return {"flops": 2 * side**3 / product, "bytes": 2 * size / seconds}


def beside(figures: Mapping[str, Any], device: str, dtype: str) -> dict[str, Any]:
    """`set_against` rates that are measured now; again where a row is above them.

    Rates can only come out too low, by whatever else the machine does: the best of both counts.
    """
    set_against(figures, {"flops": 1.0, "bytes": 1.0})  # before anything is measured for nothing
    measured = rates(device, dtype)
    if set_against(figures, measured)["fraction"] > 1:
        again = rates(device, dtype)
        measured = {name: max(value, again[name]) for name, value in measured.items()}
    return set_against(figures, measured)


def set_against(figures: Mapping[str, Any], measured: Mapping[str, float]) -> dict[str, Any]:
    """The least seconds that a row's work takes at the device's rates, and the share reached.

    Raises KeyError if ``of`` of the work names no timing of the figures, TypeError if that is none.
    """
    work = figures["work"]
    by_product = work["flops"] / measured["flops"]
    by_copy = work["bytes"] / measured["bytes"]
    floor = max(by_product, by_copy)
    return {
        "floor_s": round(floor, 6),
        "bound": "products" if by_product >= by_copy else "memory",
        "fraction": round(floor / figures[work["of"]]["median_s"], 4),
        "flops_per_s": measured["flops"],
        "bytes_per_s": measured["bytes"],
    }


def weight_bytes(module: nn.Module) -> int:
    """Bytes of all weights as they are held."""
    return sum(p.numel() * p.element_size() for p in module.parameters())


def of_generation(
    config: Mapping[str, Any], layout: Layout, *, images: int, dtype: str, decode: bool = True
) -> dict[str, Any] | None:
    """FLOPs and bytes of generating images with guidance; None if they cannot be counted.

    FLOPs are those of matrix products and convolutions, counted on the meta device without
    running them; of an image, times ``images``. Bytes are a lower bound: every weight of the model
    once per scale, those of the decoder once, whatever the batch; activations and caches are not
    in it.
    """
    try:
        with torch.device("meta"):
            pipe = Pipeline.from_config(config, dtype=dtype)
        model, tokenizer = pipe.model, pipe.tokenizer
        with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as count:
            # One image is two rows until guidance, one row in the head and after it.
            state = model.start(torch.zeros(2, dtype=torch.long), layout)
            for step, grid in enumerate(layout):
                shape = (2, grid.cells, model.facts.code_dim)
                features = model.features(torch.zeros(shape) if step else None, state)
                model.head(features[:1])
            if decode:
                tokenizer.decode(torch.zeros(1, model.facts.code_dim, *layout.last))
    except Exception:
        return None  # a plugin whose code looks at numbers, which meta tensors do not have
    total = weight_bytes(model) * len(layout)
    decoder = getattr(tokenizer, "decoder", tokenizer)
    if decode and isinstance(decoder, nn.Module):
        total += weight_bytes(decoder)
    return {"flops": count.get_total_flops() * images, "bytes": total}


def of_pass(
    config: Mapping[str, Any], layout: Layout, *, images: int, dtype: str, training: bool = False
) -> dict[str, Any] | None:
    """FLOPs and bytes of one pass over all scales at once; None if they cannot be counted.

    With ``training`` three passes (the backward pass is two), and each weight read twice, its
    gradient written and read, its two moments read and written: ten times its bytes.
    """
    try:
        with torch.device("meta"):
            pipe = Pipeline.from_config(config, dtype=dtype)
        model = pipe.model
        with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as count:
            inputs = torch.zeros(1, layout.tokens - 1, model.facts.code_dim)
            model(torch.zeros(1, dtype=torch.long), inputs, layout)
    except Exception:
        return None
    passes, touched = (3, 10) if training else (1, 1)
    return {
        "flops": count.get_total_flops() * images * passes,
        "bytes": weight_bytes(model) * touched,
    }
