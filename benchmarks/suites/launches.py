"""Launches on a GPU: how many operators one image takes, plain and with kernels, without a GPU.

At batch 1 a GPU waits for the host to launch the next operator: their number, not the work, is
what an image costs there.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from itertools import product
from typing import Any

import torch

from benchmarks.harness import models
from benchmarks.harness.cells import Row, mixed_rows, shown_rows
from benchmarks.harness.suite import Case, Options, Section
from benchmarks.suites import generation

SUITE = "launches"
SUMMARY = "Operators that a GPU runs for one image, counted on tensors without numbers"
MOST_OFTEN = 12


def cases(options: Options) -> list[Case]:
    """Two cases per backbone, without kernels and with: d16 at 256 px, d2 at 64 px if quick."""
    depth, pixels = (2, 64) if options.quick else (16, 256)
    found = []
    for backbone, kernels in product(options.chosen, (False, True)):
        settings = options.settings(
            model=models.config(models.backbone_spec(backbone, depth)),
            pixels=pixels,
            batch=1,
            weights="bf16",
            device="cuda, simulated",
            kernels=kernels,
            **generation.SAMPLING,
            guidance_schedule=generation.GUIDANCE_SCHEDULE,
        )
        name = f"{backbone} d{depth} {pixels}px batch 1 bf16{', kernels' if kernels else ''}"
        found.append(Case(SUITE, name, settings, partial(_run, settings)))
    return found


class _Counted:
    """A model whose own launches are told from the loop's."""

    def __init__(self, inner: Any, count: Any) -> None:
        self._inner, self._count, self.launches = inner, count, 0

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if name not in ("start", "features", "head"):
            return value

        def counted(*arguments: Any) -> Any:
            before = self._count.total
            result = value(*arguments)
            self.launches += self._count.total - before
            return result

        return counted


def _run(settings: dict[str, Any]) -> dict[str, Any]:
    from benchmarks.harness.fake_cuda import Launches, fake_cuda, hollow
    from flexvar.generation import engine
    from flexvar.generation.choice import of_spec
    from flexvar.generation.loop import advance, begin
    from flexvar.generation.plan import plan
    from flexvar.generation.seeds import generators, seed_keys
    from flexvar.ops import fusion

    kernels = bool(settings.get("kernels"))
    pipe = hollow(settings["model"], settings["weights"])
    layout = models.layout_of(settings["pixels"], pipe.tokenizer.space.stride)
    sampler = of_spec(generation.drawn(), pipe.registry).build(pipe.model.facts)
    count = Launches()
    model: Any = _Counted(pipe.model, count)
    with ExitStack() as inside:
        inside.enter_context(fake_cuda(pipe))
        inside.enter_context(torch.inference_mode())
        if kernels:
            inside.enter_context(fusion.trusted("cuda:0"))
        engine.use_kernels(pipe, kernels)
        inputs, sources = pipe.collate([207]), generators(seed_keys(0, 1))
        (share,) = plan(
            pipe.model.conditioner,
            pipe.tokenizer,
            inputs,
            layout,
            sampler,
            sources,
            fused=kernels,
        )
        with count:
            progress = begin(model, share)
            count.copies.clear()  # index tables, at the first image of a layout alone
            before, by_scale = count.total, []
            for _ in layout:
                advance(model, pipe.tokenizer, sampler, share, progress)
                by_scale.append(count.total - before)
                before = count.total
            loop = count.total
            pipe.decode(progress.latent_BChw)  # type: ignore[arg-type]
        ran = models.implementation(pipe)
    depth = settings["model"]["backbone"].get("depth")
    return {
        "launches": count.total,
        "parts": {
            "backbone": model.launches,
            "sampling": loop - model.launches,
            "decoder": count.total - loop,
        },
        "by_scale": by_scale,
        "per_block_and_scale": round(model.launches / (depth or 1) / len(layout), 1),
        "copies": dict(count.copies),
        "by_operator": dict(count.ran.most_common(MOST_OFTEN)),
        "kernels": {name: n for name, n in sorted(count.ran.items()) if name in fusion.LAUNCHES},
        "implementation": ran,
    }


def sections(rows: list[Row]) -> list[Section]:
    """Launches by part, and what is launched most."""
    header = (
        "case", "launches", "backbone", "per block and scale", "sampling", "decoder", "copies",
        "most often", "implementation",
    )  # fmt: skip

    def cells(row: Row) -> list[object]:
        figures = row["figures"]
        parts, often = figures["parts"], list(figures["by_operator"].items())[:6]
        return [
            f"{figures['launches']:,}",
            f"{parts['backbone']:,}",
            figures["per_block_and_scale"],
            f"{parts['sampling']:,}",
            f"{parts['decoder']:,}",
            sum(figures["copies"].values()),
            ", ".join(f"{name} {times:,}" for name, times in often),
            row.get("implementation") or "not said",
        ]

    text = (
        "Operators that run something on the device for one image, in torch's own steps and the "
        "kernels that are installed: views are none, and one that is several kernels (a sort, a "
        "scan) is one. Copies: between host and device, inside loop and decoder."
    )
    return [Section("Launches", text, tables=[mixed_rows(header, shown_rows(rows), cells)])]
