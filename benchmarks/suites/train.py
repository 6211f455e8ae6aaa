"""Training: seconds of a step, images a second, peak memory and utilisation, by implementation."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.harness import models, parity, roofline
from benchmarks.harness.cells import Row, milliseconds, mixed_rows, shown_rows
from benchmarks.harness.measure import PeakMemory, timed
from benchmarks.harness.suite import Case, Options, Section
from flexvar.ops.precision import parse_dtype

SUITE = "train"
SUMMARY = "A training step of the model, with every attention and scan implementation there is"


def cases(options: Options) -> list[Case]:
    """A case per backbone, implementation, depth, size, batch and dtype."""
    found = []
    for depth, pixels, batch, dtype in _grid(options):
        for backbone in options.chosen:
            for implementation in _implementations(backbone, options, dtype):
                chosen: dict[str, Any] = {}
                if implementation:
                    chosen["implementation"] = implementation
                settings = options.settings(
                    model=models.config(models.backbone_spec(backbone, depth, **chosen)),
                    pixels=pixels,
                    batch=batch,
                    dtype=dtype,
                    repeats=5 if options.quick else 20,
                )
                name = " ".join(filter(None, (backbone, implementation)))
                found.append(
                    Case(
                        SUITE,
                        f"{name} d{depth} {pixels}px batch {batch} {dtype}",
                        settings,
                        partial(_run, settings),
                    )
                )
    return found


def _grid(options: Options) -> Iterator[tuple[int, int, int, str]]:
    """Depth, pixels, batch and dtype."""
    if options.quick:
        yield 4, 96, 4, "bf16" if options.on_gpu else "fp32"
    elif options.on_gpu:
        for depth in (12, 16, 20, 24, 30):
            for batch in (16, 64):
                yield depth, 256, batch, "bf16"
        yield 16, 512, 16, "bf16"
        yield 16, 1024, 4, "bf16"
    else:
        yield 6, 128, 8, "fp32"
        yield 6, 128, 8, "bf16"
        yield 6, 256, 2, "fp32"


def _implementations(backbone: str, options: Options, dtype: str) -> list[str | None]:
    """Those that are installed and can run on the device; None if it does not say."""
    known = models.kernels(backbone)
    if not known:
        return [None]
    first = models.automatic(backbone, options.device, dtype)
    usable = [
        kernel.name
        for kernel in known
        if kernel.available and (options.on_gpu or kernel.name not in models.GPU_ONLY)
    ]
    return sorted(usable, key=lambda name: name != first)


def _run(settings: dict[str, Any]) -> dict[str, Any]:
    device, dtype = settings["device"], parse_dtype(settings["dtype"])
    pipe = models.pipeline(settings["model"], seed=settings["seed"], device=device)
    layout = models.layout_of(settings["pixels"], pipe.tokenizer.space.stride)
    report = parity.check_gradients(pipe, layout, dtype=settings["dtype"])
    model = pipe.model.train()
    tried = parity.trial(pipe, layout, settings["batch"])
    where = pipe.device.type
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    with torch.autocast(where, dtype, enabled=dtype != torch.float32):
        ran = models.implementation(pipe)

    def step() -> None:
        with torch.autocast(where, dtype, enabled=dtype != torch.float32):
            logits_BLV = model(tried.labels_B, tried.inputs_BLC, layout)
        F.cross_entropy(logits_BLV.flatten(0, -2), tried.tokens.flatten()).backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    with PeakMemory(device) as memory:
        timing = timed(step, device, repeats=settings["repeats"])
    figures: dict[str, Any] = {
        "step": timing,
        "images_per_s": round(settings["batch"] / timing["median_s"], 4),
        "tokens_per_s": round(settings["batch"] * layout.tokens / timing["median_s"], 1),
        "peak_memory_mib": memory.mib,
        "tokens": layout.tokens,
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    work = roofline.of_pass(
        models.counted(settings["model"]),
        layout,
        images=settings["batch"],
        dtype="fp32",  # weights and moments are held so, whatever autocast computes in
        training=True,
    )
    if work is not None:
        figures["work"] = {**work, "of": "step"}
    return {**figures, "parity": report, "implementation": ran}


def sections(rows: list[Row]) -> list[Section]:
    """All rows, each with its share of the device's matrix products."""
    header = (
        "case", "step ms", "quartiles", "images/s", "peak MiB", "first step ms", "utilisation",
        "implementation",
    )  # fmt: skip

    def cells(row: Row) -> list[object]:
        figures = row["figures"]
        step = figures["step"]
        return [
            milliseconds(step["median_s"]),
            f"{milliseconds(step['low_s'])} to {milliseconds(step['high_s'])}",
            f"{figures['images_per_s']:.3g}",
            f"{figures['peak_memory_mib']:,.0f}",
            milliseconds(step["first_call_s"]),
            utilisation(figures),
            row.get("implementation") or "not said",
        ]

    shown = shown_rows(rows)
    found = Section(
        "Training",
        "Seconds of one step: forward, cross-entropy of all tokens, backward, AdamW. Utilisation: "
        "model FLOPs (three forward passes) over what the device's matrix products, measured in "
        "the same dtype, would do in that time. Every implementation has the gradients of the "
        "plain one before it is timed.",
        tables=[mixed_rows(header, shown, cells)],
    )
    return [found]


def utilisation(figures: dict[str, Any]) -> str:
    """Model FLOPs utilisation in per cent."""
    work, limit = figures.get("work"), figures.get("limit")
    if not work or not limit:
        return "not counted"
    share = work["flops"] / figures[work["of"]]["median_s"] / limit["flops_per_s"]
    return f"{100 * share:.0f} %"
