"""The ablation's pictures: what FlexVAR's figures 4 and 6 and VAR's scaling plots show."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.harness.plots import blank
from studies.ablation import plan, published, tables
from studies.ablation.tables import Rows

COLOURS = ("#1b6ca8", "#d1495b", "#2e933c", "#8e5aa8")


def figure(rows: int, columns: int, width: float, height: float) -> tuple[Any, Any]:
    """A figure and its axes, drawn without a display. Raises `FlexvarError` without matplotlib."""
    drawn = blank(width, height)
    axes = drawn.subplots(rows, columns, squeeze=False)
    for one in axes.flat:
        one.grid(color="#dddddd", linewidth=0.6)
        one.set_axisbelow(True)
        for side in ("top", "right"):
            one.spines[side].set_visible(False)
    return drawn, axes


def image(drawn: Any) -> Image.Image:
    """The figure as a picture."""
    file = io.BytesIO()
    drawn.savefig(file, format="png", facecolor="white")
    return Image.open(file).convert("RGB")


def prediction(rows: Rows) -> Image.Image | None:
    """FlexVAR's figure 4 in small: loss and samples against steps, residual against full."""
    sets = [
        data
        for data in ("digits", "photos")
        if all(rows.get(f"{data}: {name}") for name in (plan.RESIDUAL, plan.FULL_MULTI))
    ]
    if not sets:
        return None
    drawn, axes = figure(len(sets), 3, 12, 3.4 * len(sets))
    for line, data in zip(axes, sets, strict=True):
        for colour, name in zip(COLOURS, (plan.RESIDUAL, plan.FULL_MULTI), strict=False):
            figures = rows[f"{data}: {name}"][0]
            curve, trace = figures["curve"], figures["trace"]
            line[0].plot(*zip(*curve["training"], strict=True), color=colour, alpha=0.35)
            line[0].plot(*zip(*curve["validation"], strict=True), color=colour, label=name)
            steps = [one["step"] for one in trace]
            line[1].plot(steps, [one["frechet"] for one in trace], "o-", color=colour)
            line[2].plot(steps, [100 * one["accuracy"] for one in trace], "o-", color=colour)
        line[0].set_title(f"{data}: loss (nats; faint: training)", fontsize=10)
        line[1].set_title(f"{data}: Fréchet distance of samples", fontsize=10)
        line[2].set_title(f"{data}: samples recognised, %", fontsize=10)
        line[1].set_yscale("log")
        line[0].legend(fontsize=8, frameon=False)
    for one in axes[-1]:
        one.set_xlabel("training steps")
    return image(drawn)


def twins(rows: Rows, root: Path) -> Image.Image | None:
    """FlexVAR's table 5 in small: loss curves, and a sample grid of each model below them."""
    cases = tables.twin_cases(rows)
    if not cases:
        return None
    drawn, axes = figure(1, 2, 12, 3.6)
    for colour, case in zip(cycle(COLOURS), cases, strict=False):
        curve = rows[case][0]["curve"]
        by_scale = rows[case][0]["validation"]["loss_by_scale"]
        axes[0, 0].plot(
            *zip(*curve["validation"], strict=True), color=colour, label=tables.short(case)
        )
        axes[0, 0].plot(*zip(*curve["training"], strict=True), color=colour, alpha=0.3)
        axes[0, 1].plot(list(by_scale), list(by_scale.values()), "o-", color=colour)
    axes[0, 0].set_title("loss (nats; faint: training)", fontsize=10)
    axes[0, 0].set_xlabel("training steps")
    axes[0, 0].legend(fontsize=9, frameon=False)
    axes[0, 1].set_title("held-out loss of each scale at the end", fontsize=10)
    axes[0, 1].set_xlabel("grid")
    return stacked([image(drawn), *_grids(rows, cases, root)])


def sample_grids(rows: Rows, cases: Sequence[str], root: Path) -> Image.Image | None:
    """The sample grids of some models, one below the other, those that are on this machine."""
    found = _grids(rows, cases, root)
    return stacked(found) if found else None


def steps(rows: Rows) -> Image.Image | None:
    """FlexVAR's figure 6 in small: quality against the number of steps, without training again."""
    cases = [case for case in rows if rows[case] and rows[case][0].get("by_steps")]
    if not cases:
        return None
    drawn, axes = figure(1, 3, 12, 3.4)
    for colour, case in zip(COLOURS, sorted(cases), strict=False):
        found = rows[case][0]["by_steps"]
        numbers = [one["steps"] for one in found]
        for axis, name, scale in (
            (axes[0, 0], "frechet", 1),
            (axes[0, 1], "accuracy", 100),
            (axes[0, 2], "seconds_per_image", 1000),
        ):
            axis.plot(numbers, [scale * one[name] for one in found], "o-", color=colour, label=case)
    for axis, title in zip(
        axes.flat, ("Fréchet distance", "samples recognised, %", "ms per image"), strict=True
    ):
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("steps to 8x8")
    axes[0, 0].set_yscale("log")
    axes[0, 2].legend(fontsize=8, frameon=False)
    return image(drawn)


def scaling_law(rows: Rows) -> Image.Image | None:
    """Loss and error against size, log-log, with the fitted law of each."""
    laws, cases = tables.laws(rows), tables.scaling_cases(rows)
    if not laws:
        return None
    sizes = np.array([tables.look(rows[case][0], "backbone_parameters") for case in cases])
    drawn, axes = figure(1, 2, 11, 4)
    for axis, names in (
        (axes[0, 0], ("last_loss", "loss")),
        (axes[0, 1], ("last_error", "error")),
    ):
        for colour, name in zip(COLOURS, names, strict=False):
            values = [tables.mean(rows, case, f"validation.{name}") for case in cases]
            law = laws[name]
            label = (
                f"{published.LAW_NAMES[name]}: N^{law.exponent:.3f} "
                f"[{law.low:.3f}, {law.high:.3f}], r {law.correlation:.3f}"
            )
            axis.plot(sizes, values, "o", color=colour)
            line = np.geomspace(sizes[0] / 1.3, sizes[-1] * 1.3, 50)
            axis.plot(line, [law(size / 1e9) for size in line], color=colour, label=label)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xlabel("parameters of the backbone")
        axis.legend(fontsize=8, frameon=False)
        axis.yaxis.set_minor_formatter("{x:.2g}")
        axis.yaxis.set_major_formatter("{x:.2g}")
    axes[0, 0].set_title("held-out loss, nats", fontsize=10)
    axes[0, 1].set_title("held-out token error", fontsize=10)
    return image(drawn)


def stacked(parts: Sequence[Image.Image], gap: int = 10) -> Image.Image:
    """Pictures one below the other, on white."""
    width = max(part.width for part in parts)
    height = sum(part.height + gap for part in parts) - gap
    sheet = Image.new("RGB", (width, height), "white")
    top = 0
    for part in parts:
        sheet.paste(part, ((width - part.width) // 2, top))
        top += part.height + gap
    return sheet


def _grids(rows: Rows, cases: Sequence[str], root: Path) -> list[Image.Image]:
    """The grids with their titles."""
    from PIL import ImageDraw, ImageFont

    found = []
    for case in cases:
        name = rows[case][0].get("picture") if rows.get(case) else None
        if name is None or not (root / name).is_file():
            continue
        grid = Image.open(root / name).convert("RGB")
        title = Image.new("RGB", (grid.width, 22), "white")
        ImageDraw.Draw(title).text(
            (2, 2), tables.short(case), fill="black", font=ImageFont.load_default(15)
        )
        found.append(stacked([title, grid], gap=0))
    return found
