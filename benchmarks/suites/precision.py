"""What a trained model's logits lose by bf16 and int8, on tokens that it drew itself in fp32."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness import models
from benchmarks.harness.cells import Row, mixed_rows, shown_rows
from benchmarks.harness.suite import Case, Options, Section
from flexvar import Layout, Pipeline
from flexvar.sequence import teacher_forcing

SUITE = "precision"
SUMMARY = "Distance of a trained model's logits in bf16 and int8 from those in fp32"
MODELS = ("photos", "emoji")
DTYPES = ("bf16", "int8")
COUNT, QUICK_COUNT = 32, 2  # pictures


def cases(options: Options) -> list[Case]:
    """A case per bundled model, or the one that was named."""
    names = MODELS if options.model == Options().model else (options.model,)
    found = []
    for name in names:
        pictures = QUICK_COUNT if options.quick else COUNT
        settings = options.settings(model=name, pictures=pictures)
        found.append(Case(SUITE, name, settings, partial(_run, settings)))
    return found


def _run(settings: dict[str, Any]) -> dict[str, Any]:
    pipe = Pipeline.from_pretrained(settings["model"], device=settings["device"])
    values = _values(pipe, settings["pictures"])
    layout = pipe.layout(warn=False)
    options = {"seed": settings["seed"], "output": "tensor", "progress": False}
    maps = pipe.sample(values, layout, options)[1].maps
    condition = pipe.collate(values)
    with torch.inference_mode():
        inputs_BLC = teacher_forcing(pipe.tokenizer, maps, layout)
        exact = _by_steps(pipe, condition, inputs_BLC, layout)
    figures: dict[str, Any] = {}
    for dtype in DTYPES:
        pipe.to(dtype=dtype)
        with torch.inference_mode():
            figures[dtype] = distance(exact, _by_steps(pipe, condition, inputs_BLC, layout))
    parity = {"compared": "logits in each precision with those in fp32", "tolerance": None}
    return {**figures, "tokens": layout.tokens * len(values), "parity": parity,
            "implementation": models.implementation(pipe)}  # fmt: skip


def _by_steps(pipe: Pipeline, condition: Any, inputs_BLC: Tensor, layout: Layout) -> Tensor:
    """Logits (B,L,V), or (B,L,G,V), scale by scale, with the kernels that generation takes."""
    state, found = pipe.model.start(condition, layout), []
    for part in layout.slices:
        given = inputs_BLC[:, part.start - 1 : part.stop - 1] if part.start else None
        found.append(pipe.model.step(given, state))
    return torch.cat(found, dim=1)


def _values(pipe: Pipeline, count: int) -> list[Any]:
    """Classes in turn, by name where they have one; no condition of a model without any."""
    known: list[Any] = list(pipe.class_names or range(pipe.model.num_classes)) or [None]
    return pipe.values([known[number % len(known)] for number in range(count)])


def distance(exact: Tensor, found: Tensor) -> dict[str, float]:
    """Of logits (...,V): mean Kullback-Leibler divergence from the exact ones' distribution in
    nats a token, and how often the likeliest token is the same.
    """
    logs, others = exact.log_softmax(-1), found.log_softmax(-1)
    divergence = (logs.exp() * (logs - others)).sum(-1)
    same = exact.argmax(-1) == found.argmax(-1)
    return {
        "kl_nats": round(float(divergence.mean()), 6),
        "same": round(float(same.float().mean()), 4),
    }


def sections(rows: list[Row]) -> list[Section]:
    """A line per model."""
    header = ("model", *(f"{d}, {what}" for d in DTYPES for what in ("nats a token", "same token")))

    def cells(row: Row) -> list[object]:
        return [
            text
            for dtype in DTYPES
            for text in (
                f"{row['figures'][dtype]['kl_nats']:.5f}",
                f"{100 * row['figures'][dtype]['same']:.1f} %",
            )
        ]

    text = (
        "Tokens that the model drew in fp32 are shown to it in each precision, each scale given "
        "the coarser ones. Kullback-Leibler divergence of its distributions from those in fp32, "
        "and how often the likeliest token is the same."
    )
    return [Section("Precision", text, tables=[mixed_rows(header, shown_rows(rows), cells)])]
