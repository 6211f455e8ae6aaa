"""The comparison's one page: quality by scale, samples side by side, time, memory, what is kept."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from benchmarks.harness import plots, record
from benchmarks.harness.cells import milliseconds, why
from benchmarks.harness.suite import Section, Table
from flexvar.files import whole_file
from studies.ablation import measure
from studies.ablation.plots import stacked
from studies.ablation.tables import look, markdown
from studies.backbones import plan

PAGE, PICTURE, SAMPLES = "backbones.md", "backbones.png", "backbones-samples.webp"
# Of the picture that stands for all of it: inches of a plot, pixels of the whole and of the names.
PANEL, ACROSS, NAMES = (5.0, 3.3), 1100, 190
NOTHING = 1e-3  # where a curve of nothing at all is drawn
Rows = Sequence[Mapping[str, Any]]


def sections(rows: Rows, root: Path) -> list[Section]:
    """A section per set of pictures, and one of time and memory. root: where sample grids are."""
    latest = _in_order(rows)
    found = []
    for data in dict.fromkeys(row["settings"].get("data") for row in latest):
        if data is not None:
            found.append(
                _quality(data, [r for r in latest if r["settings"].get("data") == data], root)
            )
    timed = [row for row in latest if "sides" in row["settings"]]
    return [*found, *([_growth(timed)] if timed else [])]


def write(rows: Rows, root: Path, out: Path) -> Path:
    """Write the page and its pictures to ``out``; the page's path."""
    found = sections(rows, root)
    grids = [picture for section in found for title, picture in section.pictures
             if "samples" in title]  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    with whole_file(out / PICTURE) as temporary:
        summary(rows, root).save(temporary, format="PNG", optimize=True)
    if grids:
        with whole_file(out / SAMPLES) as temporary:
            stacked(grids, gap=40).save(temporary, format="WEBP", quality=85, method=6)
    machine = rows[-1].get("machine", {})
    where = machine.get("gpu") or machine.get("cpu") or "an unnamed machine"
    quick = " --quick" if rows[-1]["settings"].get("quick") else ""
    lines = [
        "# Backbones, trained alike", "",
        f"Measured on {where}, {machine.get('threads', '?')} thread(s), in fp32, by "
        f"`python -m benchmarks run backbones{quick}`; this page by `python -m studies.backbones "
        "ROWS.jsonl`.", "",
        f"![Backbones]({PICTURE})", "",
    ]  # fmt: skip
    for section in found:
        lines += [f"## {section.title}", "", section.text, ""]
        lines += [line for table in section.tables for line in (markdown(table), "")]
    if grids:
        lines += ["## Samples", "", f"![Four samples of every class]({SAMPLES})", ""]
    with whole_file(out / PAGE) as temporary:
        temporary.write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    return out / PAGE


def _in_order(rows: Rows) -> list[Mapping[str, Any]]:
    """The newest row of each case, in the order of the plan: one colour for each backbone."""
    places = {name: place for place, name in enumerate(plan.BACKBONES)}
    latest = record.latest([dict(row) for row in rows])
    return sorted(latest, key=lambda row: places.get(row["settings"]["backbone"], len(places)))


def summary(rows: Rows, root: Path) -> Image.Image:
    """All on one picture: loss by scale of each set, time, what is kept, a sample of each class."""
    latest = [row for row in _in_order(rows) if _sound(row)]
    by_set: dict[str, list[Mapping[str, Any]]] = {}
    for row in latest:
        if row["settings"].get("data"):
            by_set.setdefault(row["settings"]["data"], []).append(row)
    timed = [row for row in latest if "sides" in row["settings"]]
    plotted = [
        plots.lines(_by_scale(of), "rows of the grid", f"{data}: held-out loss, nats a token",
                    log_y=False, from_zero=False, size=PANEL, legend=not number)
        for number, (data, of) in enumerate(by_set.items())
    ]  # fmt: skip
    if timed:
        plotted.append(
            _panel(timed, _generating, "ms, all scales of one picture", PANEL, not plotted)
        )
        plotted.append(_panel(timed, _kept, "MiB kept between scales", PANEL, False))
    parts = [plots.table(plotted, columns=2)] if plotted else []
    for one in next(iter(by_set.values()), []):
        path = root / one["figures"]["seeds"][0]["picture"]
        if path.is_file():
            parts.append(_strip(one["settings"]["backbone"], Image.open(path).convert("RGB")))
    return stacked(parts, gap=4)


def _strip(name: str, grid: Image.Image) -> Image.Image:
    """A backbone's name, and the first of its samples of each class."""
    row = grid.crop((0, 0, grid.width, max(1, (grid.height + 2) // measure.SHOWN - 2)))
    across = ACROSS - NAMES
    row = row.resize((across, max(1, row.height * across // row.width)), Image.Resampling.LANCZOS)
    strip = Image.new("RGB", (ACROSS, row.height), "white")
    ImageDraw.Draw(strip).text(
        (4, row.height // 2 - 8), name, fill="black", font=ImageFont.load_default(14)
    )
    strip.paste(row, (NAMES, 0))
    return strip


def _sound(row: Mapping[str, Any]) -> bool:
    return record.status(dict(row)) == "ok"


def _by_scale(rows: Rows) -> dict[str, list[tuple[float, float]]]:
    """Held-out loss by rows of the grid, of each backbone."""
    found = {}
    for row in rows:
        each = row["figures"]["seeds"]
        scales = each[0]["validation"]["loss_by_scale"]
        curve = [(float(scale.split("x")[0]), _mean(each, scale)) for scale in scales]
        found[row["settings"]["backbone"]] = curve
    return found


def _generating(side: Mapping[str, Any]) -> float:
    return 1e3 * float(side["generate"]["median_s"])


def _kept(side: Mapping[str, Any]) -> float:
    return float(side["kept_mib"])


def _panel(
    rows: Rows,
    figure: Callable[[Mapping[str, Any]], float],
    words: str,
    size: tuple[float, float] = (plots.WIDTH, plots.HEIGHT),
    legend: bool = True,
) -> Image.Image:
    """A figure of the timed rows against the grid; 0 has no place on its axis."""
    curves = {
        row["settings"]["backbone"]: [
            (float(side), max(figure(one), NOTHING))
            for side, one in row["figures"]["sides"].items()
        ]
        for row in rows
    }
    return plots.lines(curves, "cells a side of the last grid", words, size=size, legend=legend)


def _quality(data: str, rows: Rows, root: Path) -> Section:
    header = ("backbone", "depth, width", "parameters", "held-out loss", "last scale",
              "samples recognised", "Fréchet")  # fmt: skip
    body: list[Sequence[object]] = []
    grids = []
    recipe, seeds = rows[0]["settings"]["recipe"], rows[0]["settings"]["seeds"]
    for row in rows:
        name = row["settings"]["backbone"]
        if record.status(row) != "ok":
            body.append([name, why(row), *[""] * (len(header) - 2)])
            continue
        figures, each = row["figures"], row["figures"]["seeds"]
        spec = figures["backbone"]
        body.append(
            [
                name,
                f"{spec.get('depth', '-')}, {spec.get('width', '-')}",
                f"{figures['parameters'] / 1e3:,.0f} k",
                _spread(each, "validation.loss"),
                _spread(each, "validation.last_loss"),
                _spread(each, "samples.accuracy", 1, 100) + " %",
                _spread(each, "samples.frechet", 2),
            ]
        )
        path = root / each[0]["picture"]
        if path.is_file():
            grids.append(_titled(name, Image.open(path).convert("RGB")))
    text = (
        f"{recipe['steps']} steps of {recipe['batch_size']} {data}, seeds "
        f"{', '.join(map(str, seeds))}: mean ± standard deviation over them. Parameters of the "
        "backbone, matched to 3 % by width, then depth. Loss in nats a token on held-out "
        "pictures; recognised and Fréchet by a small classifier of the set."
    )
    pictures = []
    if curves := _by_scale([row for row in rows if _sound(row)]):
        plot = plots.lines(
            curves, "rows of the grid", f"{data}: held-out loss, nats", log_y=False, from_zero=False
        )
        pictures.append((f"{data}: loss by scale", plot))
    if grids:
        pictures.append((f"{data}: samples of the first seed", _beside(grids)))
    return Section(f"Quality: {data}", text, pictures, [Table(header, body)])


def _growth(rows: Rows) -> Section:
    sound = [row for row in rows if record.status(row) == "ok"]
    sides = sorted({side for row in sound for side in row["figures"]["sides"]}, key=int)
    header = ("backbone", "parameters", *(f"{what} at {side}" for what in
              ("train ms", "generate ms", "train MiB", "generate MiB", "kept MiB")
              for side in sides))  # fmt: skip
    body: list[Sequence[object]] = []
    for row in rows:
        name = row["settings"]["backbone"]
        if record.status(row) != "ok":
            body.append([name, why(row), *[""] * (len(header) - 2)])
            continue
        by_side = row["figures"]["sides"]
        cells = [
            milliseconds(by_side[s][w]["median_s"]) for w in ("train", "generate") for s in sides
        ]
        cells += [
            f"{by_side[s][f'{w}_peak_mib']:,.0f}" for w in ("train", "generate") for s in sides
        ]
        cells += [f"{by_side[s]['kept_mib']:.2f}" for s in sides]
        body.append([name, f"{row['figures']['parameters'] / 1e3:,.0f} k", *cells])

    pictures = []
    if sound:
        panels = [
            _panel(
                sound,
                lambda side: 1e3 * side["train"]["median_s"],
                "ms, training step of a picture",
            ),
            _panel(sound, _generating, "ms, scale by scale"),
            _panel(sound, lambda side: float(side["train_peak_mib"]), "MiB at most in training"),
            _panel(sound, _kept, "MiB kept between scales"),
        ]
        pictures.append(("Time and memory", plots.table(panels, columns=2)))
    text = (
        "One picture, forward and backward of all scales at once in training, forward scale by "
        "scale in generation, fp32; medians. Memory is that of the whole process at its most. "
        "Kept: what the backbone hands on at the end, AdaLN values included; "
        f"nothing at all is drawn at {NOTHING}. Each row says how busy the machine was."
    )
    return Section("Time and memory against the grid", text, pictures, [Table(header, body)])


def _spread(
    seeds: Sequence[Mapping[str, Any]], path: str, digits: int = 3, scale: float = 1
) -> str:
    values = [scale * look(figures, path) for figures in seeds]
    text = f"{statistics.mean(values):.{digits}f}"
    return text if len(values) < 2 else f"{text} ± {statistics.stdev(values):.{digits}f}"


def _mean(seeds: Sequence[Mapping[str, Any]], scale: str) -> float:
    return statistics.mean(one["validation"]["loss_by_scale"][scale] for one in seeds)


def _titled(name: str, grid: Image.Image) -> Image.Image:
    title = Image.new("RGB", (grid.width, 20), "white")
    ImageDraw.Draw(title).text((2, 2), name, fill="black", font=ImageFont.load_default(13))
    return stacked([title, grid], gap=0)


def _beside(grids: Sequence[Image.Image], columns: int = 2, gap: int = 12) -> Image.Image:
    rows = [grids[start : start + columns] for start in range(0, len(grids), columns)]
    lines = []
    for row in rows:
        width = sum(one.width + gap for one in row) - gap
        line = Image.new("RGB", (width, max(one.height for one in row)), "white")
        left = 0
        for one in row:
            line.paste(one, (left, 0))
            left += one.width + gap
        lines.append(line)
    return stacked(lines, gap)
