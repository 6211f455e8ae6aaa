"""One pass of a model over the scales of a picture: all at once, and scale by scale."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.harness import models, parity, roofline
from benchmarks.harness.measure import PeakMemory, held_mib, timed
from flexvar.ops.precision import parse_dtype


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """Figures of both ways, behind `parity.check`: their times, memory and the work of a pass.

    ``state_mib`` is what the backbone keeps at the end of a pass scale by scale, weights apart.

    settings: model, pixels, batch (rows; guidance would double them), dtype, device, seed,
    repeats. The tokenizer gives the inputs and is not timed.
    """
    pipe = models.pipeline(settings["model"], seed=settings["seed"], device=settings["device"])
    layout = models.layout_of(settings["pixels"], pipe.tokenizer.space.stride)
    report = parity.check(pipe, layout, dtype=settings["dtype"])
    tried = parity.trial(pipe, layout, settings["batch"])
    pipe.to(dtype=settings["dtype"])
    model, labels_B = pipe.model, tried.labels_B
    inputs_BLC = tried.inputs_BLC.to(parse_dtype(settings["dtype"]))

    def whole() -> None:
        model(labels_B, inputs_BLC, layout)

    def by_steps() -> Any:
        state = model.start(labels_B, layout)
        for step in range(len(layout)):
            model.step(inputs_BLC[:, tried.part(step)] if step else None, state)
        return state.backbone

    figures: dict[str, Any] = {}
    with torch.no_grad():
        for name, run in (("whole", whole), ("steps", by_steps)):
            with PeakMemory(pipe.device) as memory:
                figures[name] = timed(run, pipe.device, repeats=settings["repeats"])
            figures[f"{name}_peak_mib"] = memory.mib
        figures["state_mib"] = held_mib(by_steps())
    figures |= {
        "tokens": layout.tokens,
        "scales": len(layout),
        "parameters": sum(p.numel() for p in model.parameters()),
        "backbone_parameters": sum(p.numel() for p in model.backbone.parameters()),
    }
    work = roofline.of_pass(
        models.counted(settings["model"]),
        layout,
        images=settings["batch"],
        dtype=settings["dtype"],
    )
    if work is not None:
        figures["work"] = {**work, "of": "whole"}
    return {**figures, "parity": report, "implementation": models.implementation(pipe)}
