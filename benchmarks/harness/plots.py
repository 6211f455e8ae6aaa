"""Plots as pictures: light, readable, each curve marked and named."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from flexvar.errors import FlexvarError

Points = Sequence[tuple[float, float]]
# Told apart by the colour-blind too (Okabe and Ito), and by their marks in black and white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#555555")
MARKS = "os^Dv<>"
WIDTH, HEIGHT, DPI = 7.2, 4.2, 110


def blank(width: float, height: float) -> Any:
    """An empty figure of so many inches, drawn without a display.

    Raises `FlexvarError` if matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise FlexvarError(
            f"Plots need matplotlib, which cannot be imported ({error}). Install it: "
            'pip install "flexvar[bench]".'
        ) from None
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def lines(
    curves: Mapping[str, Points],
    x: str,
    y: str,
    *,
    log_x: bool = True,
    log_y: bool = True,
    from_zero: bool = True,
    at: Mapping[str, float] | None = None,
    size: tuple[float, float] = (WIDTH, HEIGHT),
    legend: bool = True,
) -> Image.Image:
    """Curves over one axis; a logarithmic one names the values that were measured.

    from_zero: whether the axis of y begins at 0 where it is not logarithmic. at: values of x to
    mark with a dashed line, by their label. size: in inches. legend: whether curves are named.
    Raises `FlexvarError` if matplotlib is not installed.
    """
    figure = blank(*size)
    from matplotlib.ticker import NullFormatter, NullLocator

    axes = figure.subplots()
    for number, (name, points) in enumerate(curves.items()):
        ordered = sorted(points)
        axes.plot(
            [a for a, _ in ordered],
            [b for _, b in ordered],
            color=COLOURS[number % len(COLOURS)],
            marker=MARKS[number % len(MARKS)],
            linestyle="-" if number < len(COLOURS) else "--",
            linewidth=1.8,
            markersize=5,
            label=name,
        )
    if log_x:
        axes.set_xscale("log")
        values = sorted({a for points in curves.values() for a, _ in points})
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
    if log_y:
        axes.set_yscale("log")
    elif from_zero:
        most = max((b for points in curves.values() for _, b in points), default=1.0)
        axes.set_ylim(0, 1.08 * most or 1.0)
    for label, value in (at or {}).items():
        axes.axvline(value, color="#888888", linestyle=":", linewidth=1.5)
        axes.annotate(
            label, (value, 0.97), xycoords=("data", "axes fraction"), rotation=90, fontsize=9,
            color="#555555", ha="right", va="top",
        )  # fmt: skip
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(which="major", color="#DDDDDD", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    if curves and legend:
        axes.legend(frameon=False, fontsize=9)
    return _picture(figure)


def panels(curves: Mapping[str, Points], x: str) -> Image.Image:
    """A panel for each curve, side by side, its values written at its points, from zero on.

    Raises `FlexvarError` if matplotlib is not installed.
    """
    figure = blank(WIDTH * 1.4, HEIGHT * 0.8)
    for axes, (name, points) in zip(
        figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True
    ):
        axes.plot(*zip(*points, strict=True), color=COLOURS[0], marker=MARKS[0], linewidth=1.8)
        for a, b in points:
            axes.annotate(
                f"{b:.3g}", (a, b), xytext=(0, -14), textcoords="offset points", ha="center",
                fontsize=9,
            )  # fmt: skip
        axes.set_ylim(0, 1.08 * max((b for _, b in points), default=1.0) or 1.0)
        axes.set_xticks([a for a, _ in points])
        axes.set_xlabel(x)
        axes.set_title(name, fontsize=11)
        axes.grid(which="major", color="#DDDDDD", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    return _picture(figure)


def table(pictures: Sequence[Image.Image], columns: int) -> Image.Image:
    """Pictures of one size as one, row by row."""
    width, height = pictures[0].size
    page = Image.new("RGB", (columns * width, math.ceil(len(pictures) / columns) * height), "white")
    for number, picture in enumerate(pictures):
        page.paste(picture, (number % columns * width, number // columns * height))
    return page


def _picture(figure: Any) -> Image.Image:
    data = io.BytesIO()
    figure.savefig(data, format="png")
    return Image.open(io.BytesIO(data.getvalue())).convert("RGB")
