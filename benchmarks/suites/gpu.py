"""What a GPU reaches: pictures and training, every way there is, against goals and floors.

A session on a GPU is short, so that the cases stand in the order of what one wants to know first,
each has a limit of its own, and the ways of a case take turns until that is spent.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch

from benchmarks.harness import models, parity
from benchmarks.harness.cells import Row, measured, milliseconds, mixed_rows, shown_rows
from benchmarks.harness.measure import PeakMemory, seconds_of, summary, synchronise
from benchmarks.harness.suite import Case, Options, Section, Table
from benchmarks.suites import generation
from flexvar.errors import FlexvarError
from flexvar.ops import fusion

SUITE = "gpu"
SUMMARY = "Pictures and training on a GPU: every way there is, taking turns, against goals"
# A case is stopped after so many seconds, and starts no new turn after half of them.
LIMIT_S = 150.0


class Target(NamedTuple):
    """Milliseconds a picture: the goal, and the least that an H200's rates allow.

    The floor counts matrix products, weights, caches and the decoder at 790 TFLOP/s in bf16 and
    4.3 TB/s, both rows of guidance.
    """

    goal: float | None
    floor: float | None


# By kind, backbone, depth, pixels and batch; of d16 at batch 64 and of training given per second.
TARGETS = {
    ("generate", "transformer", 16, 256, 1): Target(5.0, 1.68),
    ("generate", "transformer", 16, 256, 64): Target(1e3 / 490, 1e3 / 915),
    ("train", "transformer", 16, 256, 64): Target(1e3 / 350, 1e3 / 696),
    ("generate", "transformer", 24, 256, 1): Target(None, 4.72),
}
CASES = (
    ("generate", "transformer", 16, 256, 1),
    ("generate", "transformer", 16, 256, 64),
    ("train", "transformer", 16, 256, 64),
    ("generate", "mamba", 16, 256, 1),
    ("train", "mamba", 16, 256, 64),
    ("generate", "mamba", 16, 256, 64),
    ("generate", "transformer", 16, 256, 8),
    ("generate", "transformer", 24, 256, 1),
    ("generate", "transformer", 16, 512, 1),
    ("generate", "mamba", 16, 1024, 1),
)
QUICK = (
    ("generate", "transformer", 2, 64, 1),
    ("train", "transformer", 2, 64, 2),
    ("generate", "mamba", 2, 64, 1),
    ("train", "mamba", 2, 64, 2),
)
# So small that a CPU tries the whole suite in a minute.
QUICK_TOKENIZER = {
    "name": "multiscale",
    "channels": 32,
    "channel_multipliers": [1, 1, 1, 1, 1],
    "blocks": 1,
    "latent_channels": 32,
    "vocab_size": 64,
    "code_dim": 8,
}


def cases(options: Options) -> list[Case]:
    """About ten, the most wanted first; four tiny ones if quick, which run on a CPU too.

    Raises `FlexvarError` for the whole ones on a CPU, which would take hours there.
    """
    if not (options.quick or options.on_gpu):
        raise FlexvarError(
            f"Suite gpu measures a GPU, the device is {options.device}; give --device cuda, or "
            "--quick to try it in small."
        )
    found = []
    for kind, backbone, depth, pixels, batch in QUICK if options.quick else CASES:
        if options.backbones and backbone not in options.backbones:
            continue
        parts = {"tokenizer": QUICK_TOKENIZER} if options.quick else {}
        settings = options.settings(
            kind=kind,
            model=models.config(models.backbone_spec(backbone, depth), **parts),
            pixels=pixels,
            batch=batch,
            dtype="bf16" if options.on_gpu else "fp32",
            repeats=3 if options.quick else 30,
            limit_s=LIMIT_S,
        )
        name = f"{kind} {backbone} d{depth} {pixels}px batch {batch} {settings['dtype']}"
        run = partial(_generate if kind == "generate" else _train, settings)
        found.append(Case(SUITE, name, settings, run, LIMIT_S))
    return found


def _generate(settings: dict[str, Any]) -> dict[str, Any]:
    from flexvar.generation import engine
    from flexvar.generation.graphs import CudaRecorder, Rehearsal

    pipe = models.pipeline(settings["model"], seed=settings["seed"], device=settings["device"])
    layout = models.layout_of(settings["pixels"], pipe.tokenizer.space.stride)
    labels, on_cuda = [207 + n for n in range(settings["batch"])], pipe.device.type == "cuda"
    backbone = settings["model"]["backbone"]["name"]
    plain = generation.PlainLoop.of(pipe) if backbone == "transformer" else None
    if plain is not None:
        report = generation.check_loops(pipe, plain, labels[:1], layout)
    else:
        report = parity.check(pipe, layout, dtype="fp32")
    pipe.to(dtype=settings["dtype"])
    # Without a GPU torch's own steps stand in for compiled ones, and calls for graphs.
    wrap = functools.cache(engine.regional("inductor" if on_cuda else "eager"))
    options = {
        **generation.SAMPLING,
        "guidance_schedule": generation.GUIDANCE_SCHEDULE,
        "seed": 0,
        "progress": False,
    }
    recorder = CudaRecorder(pipe.device) if on_cuda else Rehearsal()

    def way(
        implementation: str | None, *, graphs: bool, regions: bool, kernels: bool = False
    ) -> Callable[[], Any]:
        one = _as(pipe, implementation)
        one.graphs = engine.graphs_of(one, recorder) if graphs else None

        def run() -> Any:
            engine.compile_regions(one.model, wrap if regions else None)
            engine.use_kernels(one, kernels)
            images, made, _ = one.sample(labels, layout, options)
            # What a caller gets: whole numbers, on the host.
            images.mul(255).round().to(torch.uint8).cpu()
            return made

        return run

    first = models.implementation(pipe)
    others = [name for name in _implementations(settings) if name != first]
    ways: dict[str, Callable[[], Any]] = {"eager": way(None, graphs=False, regions=False)}
    ways["regions"] = way(None, graphs=False, regions=True)
    ways["graphs"] = way(None, graphs=True, regions=False)
    ways["graphs and regions"] = way(None, graphs=True, regions=True)
    ways["graphs and kernels"] = way(None, graphs=True, regions=False, kernels=True)
    ways["graphs, regions and kernels"] = way(None, graphs=True, regions=True, kernels=True)
    for name in others:
        ways[f"graphs and regions, {name}"] = way(name, graphs=True, regions=True)
    if plain is not None:
        ways["plain loop"] = lambda: plain(labels, layout, dtype=settings["dtype"])[0].cpu()
    figures = _turns(ways, settings, pipe.device)
    return {**figures, "parity": report, "implementation": first}


def _train(settings: dict[str, Any]) -> dict[str, Any]:
    from flexvar.ops.precision import parse_dtype

    device, dtype = torch.device(settings["device"]), parse_dtype(settings["dtype"])
    first: str | None = None
    ways: dict[str, Callable[[], Any]] = {}
    report: dict[str, Any] = {}
    for implementation in _implementations(settings):
        backbone = {**settings["model"]["backbone"], "implementation": implementation}
        pipe = models.pipeline(
            {**settings["model"], "backbone": backbone}, seed=settings["seed"], device=str(device)
        )
        layout = models.layout_of(settings["pixels"], pipe.tokenizer.space.stride)
        if first is None:
            report = parity.check_gradients(pipe, layout, dtype=settings["dtype"])
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                first = models.implementation(pipe)
            ways["plain step"] = _whole_step(pipe, settings, layout, dtype, plain=True)
            ways["step, kernels"] = _whole_step(pipe, settings, layout, dtype, kernels=True)
        ways[f"step, {implementation}"] = _whole_step(pipe, settings, layout, dtype)
    figures = _turns(ways, settings, device)
    return {**figures, "parity": report, "implementation": first}


def _whole_step(
    pipe: Any,
    settings: dict[str, Any],
    layout: Any,
    dtype: torch.dtype,
    *,
    plain: bool = False,
    kernels: bool = False,
) -> Callable[[], Any]:
    """A step with all that training does: encoder, loss, clipping, AdamW, averaged weights.

    plain: as torch does it unless told - encoder in fp32, AdamW in separate operations. kernels:
    with flexvar's own for norms.
    """
    from flexvar.training.optimiser import Ema, adamw
    from flexvar.training.recipe import OptimiserConfig

    model, tokenizer, device = pipe.model.train(), pipe.tokenizer, pipe.device
    objective = _objective(pipe)
    optimiser = adamw(model, OptimiserConfig(), fused=not plain and device.type == "cuda")
    ema = Ema(model, 0.9999)
    side, batch = settings["pixels"], settings["batch"]
    source = torch.Generator().manual_seed(settings["seed"])
    image_B3HW = torch.rand(batch, 3, side, side, generator=source).mul(2).sub(1).to(device)
    labels = pipe.collate([207 % model.num_classes] * batch)
    mixed = dtype != torch.float32

    def step() -> None:
        fusion.use(model, kernels)
        with torch.no_grad(), torch.autocast(device.type, dtype, enabled=mixed and not plain):
            latent_BChw = tokenizer.features(image_B3HW)
        rng = torch.Generator().manual_seed(0)
        with torch.no_grad():
            pairs = objective.pairs(tokenizer, latent_BChw, layout, rng)
        with torch.autocast(device.type, dtype, enabled=mixed):
            logits = model(labels, pairs.inputs_BLC, layout)
        objective.loss(logits, pairs.targets).mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        ema.update(model, 1000)

    return step


def _objective(pipe: Any) -> Any:
    found = pipe.registry.load("objective", "cross_entropy")
    return found(found.Config(), facts=pipe.model.facts)


def _implementations(settings: dict[str, Any]) -> list[str]:
    """Those that can run on the device, the one that would be taken first; no slow reference."""
    name = settings["model"]["backbone"]["name"]
    on_gpu = not settings["device"].startswith("cpu")
    first = models.automatic(name, settings["device"], settings["dtype"])
    usable = [
        kernel.name
        for kernel in models.kernels(name)
        if kernel.available
        and kernel.name != "reference"
        and (on_gpu or kernel.name not in models.GPU_ONLY)
    ]
    return sorted(usable, key=lambda one: one != first)


def _as(pipe: Any, implementation: str | None) -> Any:
    """The pipeline with another implementation, its weights the same tensors."""
    one = copy.copy(pipe)
    if implementation is not None:
        model = parity.with_implementation(pipe, implementation)
        one.parts = dataclasses.replace(pipe.parts, model=model)
    return one


def _turns(
    ways: dict[str, Callable[[], Any]], settings: dict[str, Any], device: torch.device
) -> dict[str, Any]:
    """Seconds of each way, taking turns until the time is spent; why one could not be had."""
    begun = time.perf_counter()
    figures: dict[str, Any] = {}
    failed: dict[str, str] = {}
    firsts: dict[str, float] = {}
    made: dict[str, Any] = {}
    with PeakMemory(device) as memory:
        for name, run in ways.items():
            if time.perf_counter() - begun > settings["limit_s"] / 2:
                failed[name] = "not reached: the time was spent"
                continue
            start = time.perf_counter()
            try:
                made[name] = run()
                synchronise()
                firsts[name] = round(time.perf_counter() - start, 3)
                made[name] = run()  # past whatever the first one compiled or recorded
                synchronise()
            except Exception as error:
                text = (str(error).strip().splitlines() or [""])[0]
                failed[name] = f"{type(error).__name__}: {text}"[:200]
        able = [name for name in ways if name not in failed]
        times: dict[str, list[float]] = {name: [] for name in able}
        for turn in range(settings["repeats"]):
            if turn >= 2 and time.perf_counter() - begun > settings["limit_s"] / 2:
                break
            for name in able:
                times[name].append(seconds_of(ways[name]))
    for name in able:
        figures[name] = {**summary(times[name]), "first_call_s": firsts[name]}
    best = min(able, key=lambda name: figures[name]["median_s"], default=None)
    if best is not None:
        figures["best"] = best
        figures["images_per_s"] = round(settings["batch"] / figures[best]["median_s"], 3)
    agree = {
        n: _agreement(made["eager"], made[n]) for n in able if "eager" in made and n != "eager"
    }
    shown = {name: share for name, share in agree.items() if share is not None}
    return {**figures, "tokens_as_eager": shown, "failed": failed, "peak_memory_mib": memory.mib}


def _agreement(one: Any, other: Any) -> float | None:
    """The share of tokens that are the same, of what both made."""
    if not (hasattr(one, "maps") and hasattr(other, "maps")):
        return None
    same = sum(int((a == b).sum()) for a, b in zip(one.maps, other.maps, strict=True))
    return round(same / sum(a.numel() for a in one.maps), 6)


def target_of(settings: dict[str, Any]) -> Target:
    """Goal and floor of a row; of quick rows there are none."""
    backbone = settings["model"]["backbone"]
    place = (settings["kind"], backbone["name"], backbone.get("depth"), settings["pixels"])
    return TARGETS.get((*place, settings["batch"]), Target(None, None))


def sections(rows: list[Row]) -> list[Section]:
    """The best way of each case against goal and floor, then every way."""
    shown = shown_rows(rows)
    header = ("case", "best way", "ms an image", "goal", "floor", "images/s", "peak MiB", "ran")

    def cells(row: Row) -> list[object]:
        figures, batch = row["figures"], row["settings"]["batch"]
        target, best = target_of(row["settings"]), figures.get("best")
        own = None if best is None else figures[best]["median_s"] / batch
        limits = ("" if one is None else f"{one:.3g}" for one in target)
        return [
            best or "none",
            milliseconds(own),
            *limits,
            figures.get("images_per_s", ""),
            f"{figures['peak_memory_mib']:,.0f}",
            row.get("implementation") or "not said",
        ]

    every = ("case", "way", "median ms", "quartiles", "first call s", "tokens as eager")
    body: list[list[object]] = []
    for row in measured(shown):
        figures = row["figures"]
        for name, one in figures.items():
            if isinstance(one, dict) and "median_s" in one:
                quartiles = f"{milliseconds(one['low_s'])} to {milliseconds(one['high_s'])}"
                agree = figures["tokens_as_eager"].get(name)
                text = "" if agree is None else f"{100 * agree:.2f} %"
                where = milliseconds(one["median_s"]), quartiles, one["first_call_s"], text
                body.append([row["case"], name, *where])
        body += [[row["case"], name, why, "", "", ""] for name, why in figures["failed"].items()]
    text = (
        "Medians of ways that take turns, after one call that compiles and records. Generation: "
        "from the condition to pictures of whole numbers on the host, with guidance; kernels are "
        "flexvar's own, each taken where it agrees. Training: "
        "encoder, forward and backward pass, clipping, AdamW, averaged weights. Goal and floor in "
        "milliseconds an image, of one H200."
    )
    tables = [mixed_rows(header, shown, cells), Table(every, body)]
    return [Section("On a GPU", text, tables=tables)]
