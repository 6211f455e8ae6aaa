"""Pictures on a CPU in every precision, beside the plain loop, with what the products allow."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from benchmarks.harness import models, roofline
from benchmarks.harness.cells import Row, mixed_rows, shown_rows
from benchmarks.harness.measure import chosen_clock, interleaved, seconds_of, summary
from benchmarks.harness.suite import Case, Options, Red, Section
from benchmarks.suites import generation
from flexvar import FlexvarError, Pipeline
from flexvar.ops import int8

SUITE = "generate-cpu"
SUMMARY = "Pictures on a CPU in fp32, bf16 and int8, beside the plain loop, all taking turns"
DTYPES = ("fp32", "bf16", "int8")
# What each precision is held against: published code knows no int8.
AGAINST = {"fp32": "fp32", "bf16": "bf16", "int8": "bf16"}
# int8's product against its definition: bf16 rounds both.
INT8_TOLERANCE = 1e-2
RATE_SIDE = 1536


def cases(options: Options) -> list[Case]:
    """A picture, and eight, of which fp32 is left out; a small one if quick.

    Raises `FlexvarError` for another device.
    """
    if options.on_gpu:
        raise FlexvarError(f"Suite {SUITE} measures a CPU; give --device cpu.")
    found = []
    whole = [(16, 256, 1, DTYPES, 3), (16, 256, 8, DTYPES[1:], 2)]
    for depth, pixels, batch, dtypes, repeats in (
        [(4, 128, 1, DTYPES, 2)] if options.quick else whole
    ):
        settings = options.settings(
            pixels=pixels,
            batch=batch,
            dtypes=list(dtypes),
            repeats=repeats,
            **generation.SAMPLING,
            guidance_schedule=generation.GUIDANCE_SCHEDULE,
            model=models.config(models.backbone_spec("transformer", depth)),
        )
        name = f"transformer d{depth} {pixels}px batch {batch}"
        found.append(Case(SUITE, name, settings, partial(_run, settings)))
    return found


def _run(settings: dict[str, Any]) -> dict[str, Any]:
    pipe, layout, labels = generation.opened(settings)
    plain, sampled = generation.PlainLoop.of(pipe), generation.drawn()
    report = generation.check_loops(pipe, plain, labels[:1], layout)
    report["int8"] = _check_int8(pipe)
    dtypes = settings["dtypes"]
    pipes = {}
    for dtype in dtypes:
        pipes[dtype] = pipe if dtype == "fp32" else copy.deepcopy(pipe).to(dtype=dtype)
        pipes[dtype]._exact.clear()  # what was rounded is not wanted back
    ways: dict[str, Callable[[], Any]] = {
        f"flexvar {dtype}": partial(generation.ours, one, labels, layout, sampled)
        for dtype, one in pipes.items()
    }
    for dtype in dict.fromkeys(AGAINST[dtype] for dtype in dtypes):
        ways[f"plain {dtype}"] = partial(plain, labels, layout, dtype=dtype)
    clock, seconds = chosen_clock(pipe.device)
    # A batch's first turn is long enough not to count what is made once.
    warm_up = int(settings["batch"] == 1)
    timed = interleaved(ways, settings["repeats"], warm_up, clock=seconds)
    figures: dict[str, Any] = {name: summary(times) for name, times in timed.items()}

    def median(name: str) -> float:
        return float(figures[name]["median_s"])

    figures["ratio"] = {
        dtype: round(median(f"plain {other}") / median(f"flexvar {dtype}"), 3)
        for dtype, other in AGAINST.items()
        if dtype in dtypes
    }
    rates = {dtype: _rate(dtype, seconds) for dtype in DTYPES}
    figures["flops_per_s"] = rates
    figures["reached"] = {
        dtype: round(
            _least_seconds(settings, layout, len(labels), dtype, rates)
            / median(f"flexvar {dtype}"),
            4,
        )
        for dtype in dtypes
    }
    return {**figures, "clock": clock, "parity": report,
            "implementation": models.implementation(pipe)}  # fmt: skip


def _check_int8(pipe: Pipeline) -> float:
    """How far int8's product of a layer of the model is from its definition, as a share."""
    model: Any = pipe.model
    weight = model.backbone.blocks[0].mlp_in.weight
    source = torch.Generator().manual_seed(0)
    x = torch.randn(64, weight.shape[1], generator=source).to(int8.rest())
    with torch.inference_mode():
        made = int8.product(x, int8.pack(weight), None).float()
        exact = int8.plain(x, weight, None).float()
    share = float((made - exact).abs().max() / exact.abs().max())
    if not share <= INT8_TOLERANCE:
        raise Red(f"int8's product is {share:.2g} of the largest away from its definition")
    return share


def _rate(dtype: str, clock: Callable[[], float]) -> float:
    """FLOP/s of one large product, the best of a few tries."""
    if dtype != "int8":
        return roofline.rates("cpu", dtype, clock=clock)["flops"]
    x = torch.randn(RATE_SIDE, RATE_SIDE, dtype=int8.rest())
    packed = int8.pack(x.float())
    values = torch.randint(0, 255, x.shape, dtype=torch.uint8)
    with torch.inference_mode():
        tries = [
            seconds_of(lambda: int8.integers(values, packed, x.dtype), clock)
            for _ in range(roofline.TRIES)
        ]
    return float(2 * RATE_SIDE**3 / min(tries))


def _least_seconds(
    settings: dict[str, Any], layout: Any, images: int, dtype: str, rates: dict[str, float]
) -> float:
    """What the counted products and convolutions would take at the rate of one large product.

    In int8 the decoder's are in bf16.
    """
    model, whole = (
        roofline.of_generation(settings["model"], layout, images=images, dtype="fp32", decode=both)
        for both in (False, True)
    )
    assert model is not None
    assert whole is not None
    other = rates["bf16" if dtype == "int8" else dtype]
    return model["flops"] / rates[dtype] + (whole["flops"] - model["flops"]) / other


def sections(rows: list[Row]) -> list[Section]:
    """Seconds, ratios and the share of the products' rate, a line per case."""
    header = (
        "case", *(f"flexvar {d}, s" for d in DTYPES), "plain fp32, s", "plain bf16, s",
        *(f"{d}: plain {AGAINST[d]} / flexvar" for d in DTYPES),
        *(f"{d}: of the products' rate" for d in DTYPES),
    )  # fmt: skip

    def cells(row: Row) -> list[object]:
        figures = row["figures"]
        names = [*(f"flexvar {d}" for d in DTYPES), "plain fp32", "plain bf16"]
        return [
            *(f"{figures[name]['median_s']:.2f}" if name in figures else "" for name in names),
            *(f"{figures['ratio'][d]:.2f}" if d in figures["ratio"] else "" for d in DTYPES),
            *(
                f"{100 * share:.0f} %" if (share := figures["reached"].get(d)) else ""
                for d in DTYPES
            ),
        ]

    text = (
        "From labels to pictures with guidance, medians, taking turns. With one thread the clock "
        "is the process's CPU time, which is what a quiet machine's clock would show. int8 is held "
        "against the plain loop in bf16. The last columns: what the counted products and "
        "convolutions would take at the rate of one large product, over the time."
    )
    return [
        Section("Pictures on a CPU", text, tables=[mixed_rows(header, shown_rows(rows), cells)])
    ]
