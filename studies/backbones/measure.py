"""The figures of a backbone: trained under every seed, and timed against the grid."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.harness import models, parity
from benchmarks.harness.measure import PeakMemory, held_mib, timed
from studies.ablation import measure, trained
from studies.ablation.plan import D_MULTI, tokenizers
from studies.ablation.trained import Place
from studies.backbones import plan

# Small, so that what is measured is the backbone.
TOKENIZER = {"name": "multiscale", "vocab_size": 64, "code_dim": 8, "channels": 32,
             "channel_multipliers": [1], "blocks": 1, "latent_channels": 32}  # fmt: skip


def quality(data: str, backbone: str, budget: plan.Budget, place: Place) -> dict[str, Any]:
    """Train the backbone under every seed, unless that is done, over one tokenizer."""
    tokenizer = "photos"
    if data == "digits":
        one = next(run for run in tokenizers(place.budget) if run.name == D_MULTI)
        tokenizer = str(trained.tokenizer(one, place))
    run = plan.run(data, backbone, budget, tokenizer)
    seeds = [measure.model_figures(run, replace(place, seed=seed)) for seed in budget.seeds]
    reports = [figures.pop("parity") for figures in seeds]
    return {
        "backbone": dict(run.recipe["backbone"]),
        "parameters": seeds[0]["backbone_parameters"],
        "seeds": seeds,
        "parity": max(reports, key=lambda report: float(report["greatest"])),
        "implementation": seeds[0].get("implementation"),
    }


def growth(spec: dict[str, Any], budget: plan.Budget, device: str) -> dict[str, Any]:
    """Time and memory of a training step and of a generation's passes, by the last grid's side.

    One picture, without guidance; the tokenizer is not timed. Kept: what the backbone hands on.
    """
    config = models.config(spec, tokenizer=TOKENIZER, num_classes=10)
    pipe = models.pipeline(config, seed=0, device=device)
    report = parity.check(pipe, models.layout_of(256))
    sides = {str(side): _at(pipe, side, budget.repeats) for side in budget.sides}
    count = sum(p.numel() for p in pipe.model.backbone.parameters())
    return {"backbone": spec, "parameters": count, "sides": sides, "parity": report,
            "implementation": models.implementation(pipe)}  # fmt: skip


def _at(pipe: Any, side: int, repeats: int) -> dict[str, Any]:
    layout, model = models.layout_of(16 * side), pipe.model
    tried = parity.trial(pipe, layout, 1)

    def train() -> None:
        logits_BLV = model(tried.labels_B, tried.inputs_BLC, layout)
        F.cross_entropy(logits_BLV.flatten(0, -2), tried.tokens.flatten()).backward()
        model.zero_grad(set_to_none=True)

    @torch.no_grad()
    def generate() -> Any:
        state = model.start(tried.labels_B, layout)
        for scale in range(len(layout)):
            model.step(tried.inputs_BLC[:, tried.part(scale)] if scale else None, state)
        return state.backbone

    figures: dict[str, Any] = {"tokens": layout.tokens, "kept_mib": held_mib(generate())}
    for name, call in (("train", train), ("generate", generate)):
        with PeakMemory(pipe.device) as memory:
            figures[name] = timed(call, pipe.device, repeats=repeats)
        figures[f"{name}_peak_mib"] = memory.mib
    return figures
