"""One generation, flexvar's and the plain loop's: run, split into its parts, and compared."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from benchmarks.harness import models
from benchmarks.harness.measure import synchronise
from benchmarks.harness.suite import Red
from benchmarks.reference.plain_loop import generate_plainly
from flexvar import Layout, Pipeline, SamplingSettings
from flexvar.generation.choice import of_spec
from flexvar.generation.loop import Generated, generate
from flexvar.generation.seeds import generators, seed_keys, uniforms

SAMPLING: dict[str, Any] = {"guidance": 2.5, "top_k": 900, "top_p": 0.95}
GUIDANCE_SCHEDULE = "ramp10"
# Pictures in [0,1] of the two loops, in fp32.
PICTURE_TOLERANCE = 1e-4
PARTS = ("backbone", "sampling", "decoder")


@dataclass
class Split:
    """Seconds by part of the work, and the backbone's by scale."""

    backbone: float = 0.0
    sampling: float = 0.0
    decoder: float = 0.0
    scales: list[float] = field(default_factory=list)


class Booked:
    """A model whose calls are timed, the device waited for before and after each."""

    def __init__(self, inner: Any, split: Split) -> None:
        self._inner, self._split = inner, split

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if name not in ("start", "features", "head"):
            return value

        def booked(*arguments: Any) -> Any:
            synchronise()
            start = time.perf_counter()
            result = value(*arguments)
            synchronise()
            self._split.backbone += time.perf_counter() - start
            return result

        return booked


def opened(settings: Mapping[str, Any]) -> tuple[Pipeline, Layout, list[int]]:
    """The model of a case on its device, the grids of its size, and a label for each picture."""
    pipe = models.pipeline(settings["model"], seed=settings["seed"], device=settings["device"])
    layout = models.layout_of(settings["pixels"], pipe.tokenizer.space.stride)
    return pipe, layout, [207 + number for number in range(settings["batch"])]


def drawn() -> SamplingSettings:
    """How pictures are sampled where their time is taken: as FlexVAR's are."""
    return SamplingSettings(guidance_schedule=GUIDANCE_SCHEDULE, **SAMPLING)


def ours(
    pipe: Pipeline, labels: list[int], layout: Layout, settings: SamplingSettings
) -> tuple[torch.Tensor, Generated]:
    """Images (B,3,H,W) in [0,1] and their tokens, through flexvar's own loop."""
    generated = _loop(pipe, pipe.model, labels, layout, settings)
    return pipe.decode(generated.latent_BChw), generated


def split_of(
    pipe: Pipeline, labels: list[int], layout: Layout, settings: SamplingSettings
) -> Split:
    """Seconds of one generation by part; slower than without, since each part is waited for."""
    split = Split()
    before = [0.0]

    def after_scale(*_: object) -> None:
        split.scales.append(split.backbone - before[0])
        before[0] = split.backbone

    start = time.perf_counter()
    booked: Any = Booked(pipe.model, split)
    generated = _loop(pipe, booked, labels, layout, settings, after_scale)
    synchronise()
    middle = time.perf_counter()
    pipe.decode(generated.latent_BChw)
    synchronise()
    split.decoder = time.perf_counter() - middle
    # Guidance, filters, draws, look-up and resizing: all of the loop that is no model.
    split.sampling = middle - start - split.backbone
    return split


def median_parts(spent: Sequence[Any]) -> dict[str, float]:
    """The median seconds of each part, over `Split`s or what the plain loop spent."""
    return {
        part: round(statistics.median(getattr(one, part) for one in spent), 6) for part in PARTS
    }


def _loop(
    pipe: Pipeline,
    model: Any,
    labels: list[int],
    layout: Layout,
    settings: SamplingSettings,
    on_scale: Callable[..., None] | None = None,
) -> Generated:
    return generate(
        model,
        pipe.tokenizer,
        torch.tensor(labels, device=pipe.device),
        layout,
        of_spec(settings, pipe.registry).build(pipe.model.facts),
        generators(seed_keys(0, len(labels))),
        on_scale=on_scale,
    )


@dataclass(frozen=True, slots=True)
class PlainLoop:
    """The plain loop over a copy of a pipeline's weights, frozen and contiguous.

    Frozen, as published code samples: autocast then casts each weight at each call.
    """

    pipe: Pipeline

    @classmethod
    def of(cls, pipe: Pipeline) -> PlainLoop:
        """A copy; the pipeline has to be in fp32."""
        plain = copy.deepcopy(pipe)
        plain.tokenizer.to(memory_format=torch.contiguous_format)  # type: ignore[attr-defined]
        for module in plain.parts.modules():
            for part in module.modules():
                part.requires_grad_(False)
        return cls(plain)

    def __call__(self, labels: list[int], layout: Layout, *, dtype: str, **sampling: Any) -> Any:
        """Images, maps, and the time by part; autocast in any dtype but fp32."""
        uniform_BL = uniforms(generators(seed_keys(0, len(labels))), layout.tokens)
        return generate_plainly(
            self.pipe,
            labels,
            layout,
            uniform_BL=uniform_BL.to(self.pipe.device),
            autocast=None if dtype == "fp32" else torch.bfloat16,
            **{**SAMPLING, **sampling},
        )


def check_loops(
    pipe: Pipeline, plain: PlainLoop, labels: list[int], layout: Layout
) -> dict[str, Any]:
    """That both loops take the same likeliest tokens and draw the same picture, in fp32.

    Raises `Red` if they do not.
    """
    greedy = SamplingSettings(guidance=2.5, guidance_schedule="ramp10", top_k=1)
    images, generated = ours(pipe, labels, layout, greedy)
    expected, maps, _ = plain(labels, layout, dtype="fp32", top_k=1, top_p=1.0)
    same = all(torch.equal(a, b) for a, b in zip(generated.maps, maps, strict=True))
    report: dict[str, Any] = {
        "compared": "likeliest tokens and pictures of both loops, fp32",
        "same_tokens": same,
        "tolerance": PICTURE_TOLERANCE,
        "greatest": float((images - expected).abs().max()),
    }
    if not same or not report["greatest"] <= PICTURE_TOLERANCE:
        raise Red("flexvar's loop and the plain loop do not agree in fp32", report)
    return report
