"""What was measured, as one self-contained page and as Markdown tables."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from benchmarks import suites
from benchmarks.harness import load, record
from benchmarks.harness.cells import why
from benchmarks.harness.record import Row
from benchmarks.harness.suite import Section, Table
from flexvar.errors import FlexvarError
from flexvar.files import whole_file
from flexvar.text import markdown as marked
from flexvar.text import printable
from flexvar.web.page import figure, page, shown

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1c1c1c; background: #fff;
  max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; }
h2 { font-size: 1.3rem; margin: 2.6rem 0 .2rem; border-top: 1px solid #ddd; padding-top: 1rem; }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .2rem; }
p { margin: .3rem 0 .8rem; max-width: 48rem; }
.scroll { overflow-x: auto; }
.row { display: flex; flex-wrap: wrap; gap: 1rem; align-items: start; }
figure { margin: 0; } figcaption { font-size: .85rem; color: #555; }
img { display: block; max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: .85rem; margin: .4rem 0 1rem; }
th, td { padding: .25rem .8rem .25rem 0; text-align: right; vertical-align: top;
  white-space: nowrap; font-variant-numeric: tabular-nums; }
th { border-bottom: 2px solid #bbb; } td { border-bottom: 1px solid #eee; }
th:first-child, td:first-child { text-align: left; }
td.bad { color: #b00020; text-align: left; white-space: normal; }
dl { display: grid; grid-template-columns: max-content auto; gap: .1rem 1rem; font-size: .9rem; }
dt { color: #555; } dd { margin: 0; }
"""
MARKS = ("RED:", "FAILED:")


def write(machines: Mapping[str, Sequence[Row]], out: Path) -> Path:
    """The page's path. machines: rows by the name of their machine's file.

    Writes index.html, and report.md with its pictures beside it, each moved into place whole.
    Raises `FlexvarError` if they cannot be written.
    """
    if out.is_file():
        raise FlexvarError(f"--out {out} is a file; name a directory.")
    parts = [(name, by_suite(record.latest(rows))) for name, rows in machines.items() if rows]
    infos = {name: newest(rows) for name, rows in machines.items() if rows}
    page = (out / "index.html").resolve()
    _write(page, html(parts, infos).encode())
    text, pictures = markdown(parts, infos)
    for name, image in pictures.items():
        _write(page.with_name(name), _png(image))
    _write(page.with_name("report.md"), text.encode())
    return page


Parts = list[tuple[str, list[tuple[str, list[Section]]]]]


def by_suite(rows: Sequence[Row]) -> list[tuple[str, list[Section]]]:
    """The sections of each suite that has rows, in the order of the suites."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["suite"], []).append(row)
    order = [*suites.names(), *found]
    return [
        (name, [*_sections(name, found[name]), *_busy(found[name])])
        for name in dict.fromkeys(order)
        if name in found
    ]


def _sections(suite: str, rows: list[Row]) -> list[Section]:
    """A suite's own sections; a plain list of its rows if it cannot make them."""
    bad = [row for row in rows if record.status(row) != "ok"]
    try:
        found = list(suites.load(suite).sections(rows))
    except Exception as error:
        # One suite - a plugin that is gone, an old row - must not take the page with it.
        note = f"The suite could not show its rows ({type(error).__name__}: {error})."
        table = Table(("case", "figures"), [[row["case"], _brief(row)] for row in rows])
        return [Section(suite, note, tables=[table])]
    named = "\n".join(
        str(cell)
        for section in found
        for _, body in section.tables
        for line in body
        for cell in line
    )
    # What a suite left out of its tables stands here: a failure is a row, not a gap.
    unsaid = [row for row in bad if row["case"] not in named]
    if unsaid:
        table = Table(("case", "what happened"), [[row["case"], why(row)] for row in unsaid])
        found.append(Section("Without a figure", "Cases that were red or failed.", tables=[table]))
    return found


def _busy(rows: list[Row]) -> list[Section]:
    """The rows whose timings suffered from other work, if there are any."""
    busy = [row for row in rows if row.get("load", {}).get("busy")]
    if not busy:
        return []
    table = Table(("case", "while it ran"), [[row["case"], load.told(row["load"])] for row in busy])
    note = "Timings of these rows suffered from other work; measure them again with --again."
    return [Section("On a busy machine", note, tables=[table])]


def _brief(row: Row) -> str:
    if record.status(row) != "ok":
        return why(row)
    return ", ".join(f"{k} {v}" for k, v in row["figures"].items() if not isinstance(v, dict))


def newest(rows: Sequence[Row]) -> dict[str, str]:
    """Machine and versions of the newest row, and all commits, as they are shown."""
    info = rows[-1].get("machine", {})
    commits = dict.fromkeys(str(row.get("machine", {}).get("commit")) for row in rows)
    shown = {
        "GPU": info.get("gpu") or "none",
        "CPU": f"{info.get('cpu')}, {info.get('cores')} cores, {info.get('threads')} threads",
        "versions": f"torch {info.get('torch')}, Python {info.get('python')}, "
        f"flexvar {info.get('flexvar')}",
        "commits": ", ".join(commits),
        "newest row": str(rows[-1].get("time", "no time recorded")),
    }
    return {name: str(value) for name, value in shown.items()}


def html(parts: Parts, infos: Mapping[str, Mapping[str, str]]) -> str:
    """The page; pictures are in it."""
    body = [
        "<h1>flexvar benchmarks</h1>",
        "<p>Medians, behind a parity check; a red row failed it and has no figure. "
        "Made again by <code>python -m benchmarks run SUITE</code>.</p>",
    ]
    for machine, of_machine in parts:
        body.append(f"<h2>{shown(machine)}</h2><dl>")
        body += [f"<dt>{shown(k)}</dt><dd>{shown(v)}</dd>" for k, v in infos[machine].items()]
        body.append("</dl>")
        for _, sections in of_machine:
            for section in sections:
                body.append(f"<h3>{shown(section.title)}</h3><p>{shown(section.text)}</p>")
                body += [_html_table(*table) for table in section.tables]
                if section.pictures:
                    figures = "".join(figure(*one) for one in section.pictures)
                    body.append(f"<div class='row'>{figures}</div>")
    return page("flexvar benchmarks", "\n".join(body), style=STYLE)


def markdown(
    parts: Parts, infos: Mapping[str, Mapping[str, str]]
) -> tuple[str, dict[str, Image.Image]]:
    """The same for a README, and the pictures it names by their files' names."""
    lines = ["# flexvar benchmarks"]
    pictures = {}
    for machine, of_machine in parts:
        lines += ["", f"## {marked(machine)}", ""]
        lines += [f"- {name}: {marked(value)}" for name, value in infos[machine].items()]
        for _, sections in of_machine:
            for section in sections:
                lines += ["", f"### {marked(section.title)}", "", printable(section.text)]
                for header, body in section.tables:
                    lines += ["", _line(header), "|" + "---|" * len(header)]
                    lines += [_line(row) for row in body]
                for caption, image in section.pictures:
                    name = _slug(f"{machine} {section.title} {caption}") + ".png"
                    pictures[name] = image
                    lines += ["", f"![{marked(caption)}]({name})"]
    return "\n".join(lines) + "\n", pictures


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def _line(cells: Sequence[object]) -> str:
    return "| " + " | ".join(printable(cell).replace("|", "\\|") for cell in cells) + " |"


def _html_table(header: Sequence[str], body: Sequence[Sequence[object]]) -> str:
    head = "".join(f"<th>{shown(cell)}</th>" for cell in header)
    lines = []
    for row in body:
        cells = ""
        for number, cell in enumerate(row):
            text = str(cell)
            if text.startswith(MARKS):
                # The reason takes the place of all the figures that are not there.
                cells += f"<td class='bad' colspan='{len(header) - number}'>{shown(text)}</td>"
                break
            cells += f"<td>{shown(text)}</td>"
        lines.append(f"<tr>{cells}</tr>")
    return f"<div class='scroll'><table><tr>{head}</tr>{''.join(lines)}</table></div>"


def _png(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, format="PNG", optimize=True)
    return data.getvalue()


def _write(path: Path, data: bytes) -> None:
    with whole_file(path) as temporary:
        temporary.write_bytes(data)
