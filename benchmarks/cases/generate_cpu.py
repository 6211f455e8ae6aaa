"""One 256 px image of FlexVAR-d16 on a CPU: flexvar against the plain loop in the same run."""

from __future__ import annotations

import copy
import time
from typing import Any

import torch

from benchmarks import record
from benchmarks.plain import Spent, generate_plainly
from flexvar import Layout, Pipeline, SamplingSettings
from flexvar.generate import generate
from flexvar.sampling import generators, seed_keys, uniforms

SAMPLING = {"guidance": 2.5, "top_k": 900, "top_p": 0.95}


class Timed:
    """A model or tokenizer whose calls are booked on a part of the time spent."""

    def __init__(self, inner: Any, spent: Spent, parts: dict[str, str]) -> None:
        self._inner, self._spent, self._parts = inner, spent, parts

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        if name not in self._parts:
            return value

        def timed(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = value(*arguments)
            part = self._parts[name]
            setattr(self._spent, part, getattr(self._spent, part) + time.perf_counter() - start)
            return result

        return timed


def ours(pipe: Pipeline, labels: list[int], layout: Layout, settings: SamplingSettings) -> Any:
    """Images, maps and the time by part, through flexvar's own loop."""
    spent = Spent()
    start = time.perf_counter()
    model: Any = Timed(pipe.model, spent, dict.fromkeys(("start", "features", "head"), "backbone"))
    generated = generate(
        model,
        pipe.tokenizer,
        torch.tensor(labels),
        layout,
        settings,
        generators(seed_keys(0, len(labels))),
    )
    middle = time.perf_counter()
    images = pipe.decode(generated.latent_BChw)
    spent.decoder = time.perf_counter() - middle
    # Guidance, filters, draws, look-up and resizing: all of the loop that is no model.
    spent.sampling = middle - start - spent.backbone
    return images, generated.maps, spent


def run(
    *, quick: bool = False, depth: int = 16, side: int = 16, repeats: int = 7
) -> list[dict[str, Any]]:
    """Rows for fp32 and bf16; the parity check comes first, and red means no figure."""
    if quick:
        depth, repeats = 4, 3
    layout = Layout.of(1, 2, 3, 4, 5, 6, 8, 10, 13, 16) if side == 16 else Layout.of(1, 2, 3, side)
    config = {
        "tokenizer": {"name": "multiscale"},
        "backbone": {"name": "transformer", "depth": depth},
        "num_classes": 1000,
    }
    pipe = Pipeline.from_config(config)
    with torch.no_grad():
        # Fresh gates of 1e-3 would make any two loops agree.
        for block in pipe.model.backbone.blocks:  # type: ignore[union-attr]
            block.modulation.weight[: 2 * pipe.model.facts.width].mul_(1e3)
        pipe.model.head.logits.weight.mul_(50)
    plain = copy.deepcopy(pipe)
    plain.tokenizer.to(memory_format=torch.contiguous_format)  # type: ignore[attr-defined]
    for module in plain.parts.modules():
        # Frozen, as published code samples: autocast then casts each weight at each call.
        module.requires_grad_(False)
    labels = [207]
    uniform_BL = uniforms(generators(seed_keys(0, 1)), layout.tokens)
    greedy = SamplingSettings(guidance=2.5, guidance_schedule="ramp10", top_k=1)
    drawn = SamplingSettings(guidance_schedule="ramp10", **SAMPLING)

    images, maps, _ = ours(pipe, labels, layout, greedy)
    expected, expected_maps, _ = generate_plainly(
        plain, labels, layout, guidance=2.5, top_k=1, top_p=1.0, uniform_BL=uniform_BL
    )
    same_tokens = all(torch.equal(a, b) for a, b in zip(maps, expected_maps, strict=True))
    difference = float((images - expected).abs().max())
    parity = {"same_tokens": same_tokens, "max_difference": difference}
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        name = str(dtype).removeprefix("torch.")
        row: dict[str, Any] = {
            "suite": "generate-cpu",
            "case": f"d{depth} 256 px batch 1 {name}",
            "settings": {"depth": depth, "steps": len(layout), "dtype": name, **SAMPLING},
            "parity_fp32": parity,
        }
        rows.append(row)
        if not same_tokens or difference > 1e-4:
            row["error"] = "the two loops do not agree in fp32, so no figure is given"
            continue
        pipe.to(dtype=dtype)
        row["implementation"] = pipe.model.backbone.implementation()  # type: ignore[operator, union-attr]
        spents: dict[str, list[Spent]] = {"flexvar": [], "plain": []}
        autocast = None if dtype == torch.float32 else dtype

        def run_ours(spents: dict[str, list[Spent]] = spents) -> None:
            spents["flexvar"].append(ours(pipe, labels, layout, drawn)[2])

        def run_plain(
            spents: dict[str, list[Spent]] = spents, autocast: torch.dtype | None = autocast
        ) -> None:
            spents["plain"].append(
                generate_plainly(
                    plain, labels, layout, uniform_BL=uniform_BL, autocast=autocast, **SAMPLING
                )[2]
            )

        times = record.interleaved({"flexvar": run_ours, "plain": run_plain}, repeats)
        for who, seconds in times.items():
            row[who] = record.summary(seconds)
            for part in ("backbone", "sampling", "decoder"):
                values = [getattr(spent, part) for spent in spents[who][1:]]
                row[who][f"{part}_s"] = record.summary(values)["median_s"]
        row["ratio"] = round(row["plain"]["median_s"] / row["flexvar"]["median_s"], 3)
    return rows
