"""The figures that README and documentation state, filled in from rows (docs/figures.yaml)."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
# A number with a unit of time, memory, quality or speed: a measured one, unless it is listed.
MEASURED = re.compile(
    r"\d[\d.,]*\s?(?:s|ms|MiB|dB|nats|%|GFLOP/s|images/s|times (?:as|faster)|seconds|minutes|hours)"
    r"(?!\w)"
)


@dataclass(frozen=True, slots=True)
class Statement:
    """A text of a page as it has to stand there. source: of the figures in it, in Markdown."""

    page: str
    text: str
    source: str


def statements() -> list[Statement]:
    """All statements, their figures filled in and rounded as they are written."""
    given = yaml.safe_load((ROOT / "docs" / "figures.yaml").read_text(encoding="utf-8"))
    found = []
    for one in given["measured"]:
        aliases = dict.fromkeys(_keys(path)[0] for path in one["values"].values())
        rows = {alias: _row(*given["rows"][alias])["figures"] for alias in aliases}
        source = "<br>".join(_told(*given["rows"][alias]) for alias in aliases)
        found.append(Statement(one["page"], _filled(one, rows), source))
    for one in given["studied"]:
        row = _studied(one["study"])
        source = f"`{one['command']}` ({row['machine']['cpu']}; `{one['study']}`)"
        found.append(Statement(one["page"], _filled(one, row), source))
    for one in given["counted"]:
        values = {
            name: parameters(value["backbone"]) / value["per"]
            for name, value in one["values"].items()
        }
        source = "counted from the code: no weight is made"
        found.append(Statement(one["page"], one["says"].format(**values), source))
    found += [Statement(one["page"], one["says"], one["source"]) for one in given["others"]]
    return found


def parameters(backbone: dict[str, Any]) -> int:
    """Of the published models' parts around a backbone, without the tokenizer; 1000 classes."""
    import torch

    from flexvar import Pipeline

    with torch.device("meta"):
        pipe = Pipeline.from_config(
            {"tokenizer": {"name": "multiscale"}, "backbone": backbone, "num_classes": 1000}
        )
    return sum(weight.numel() for weight in pipe.model.parameters())


@cache
def _rows(file: str) -> list[dict[str, Any]]:
    lines = (RESULTS / f"{file}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def _row(file: str, suite: str, case: str) -> dict[str, Any]:
    """The newest row of a case. Raises KeyError if there is none, or it was red or failed."""
    rows = [row for row in _rows(file) if (row["suite"], row["case"]) == (suite, case)]
    if not rows or not rows[-1].get("figures"):
        raise KeyError(f"{file}.jsonl has no sound row of {suite}, {case}")
    return rows[-1]


@cache
def _studied(file: str) -> dict[str, Any]:
    """The newest row of a study, which keeps its rows beside its code."""
    return json.loads((ROOT / file).read_text(encoding="utf-8").splitlines()[-1])


def _keys(path: str) -> list[str]:
    """Where a figure lies, without the factor before it."""
    return path.rpartition(" * ")[2].split(" / ")


def _filled(one: dict[str, Any], row: dict[str, Any]) -> str:
    """What a page says, with the figures of a row."""
    values = {}
    for name, path in one["values"].items():
        values[name] = float(path.rpartition(" * ")[0] or 1) * _figure(row, _keys(path))
    return one["says"].format(**values)


def _figure(value: Any, keys: list[str]) -> float:
    """The number at the end of some keys; of a list, as of seeds, the mean over its parts."""
    if isinstance(value, list):
        return mean(_figure(part, keys) for part in value)
    return _figure(value[keys[0]], keys[1:]) if keys else float(value)


def _told(file: str, suite: str, case: str) -> str:
    row = _row(file, suite, case)
    machine = row["machine"]
    return (
        f"`python -m benchmarks run {suite}`: {case} "
        f"({machine['cpu']}, {machine['threads']} threads, {machine['commit']}; `{file}.jsonl`)"
    )


def prose(text: str) -> str:
    """A page without its code, on one line."""
    text = re.sub(r"```.*?```", " ", text, flags=re.S)
    return " ".join(text.split())


def strays(page: str, text: str, known: list[Statement]) -> list[str]:
    """What looks measured on a page and stands in no statement, each with the words around it."""
    line = prose(text)
    covered = [
        (match.start(), match.end())
        for one in known
        if one.page == page
        for match in re.finditer(re.escape(prose(one.text)), line)
    ]
    return [
        line[max(0, match.start() - 40) : match.end() + 10]
        for match in MEASURED.finditer(line)
        if not any(start <= match.start() < end for start, end in covered)
    ]


def page() -> str:
    """The page of figures."""
    lines = [
        "# Figures",
        "",
        "Every measured figure of these pages and of the README, the row it comes from, and the",
        "command that makes that row again. Rows are in `benchmarks/results/` and beside the",
        "studies, with machine, versions and commit; the list is `docs/figures.yaml`. A test holds",
        "text, row and rounding against each other, and finds figures without a row.",
        "",
    ]
    by_page: dict[str, list[Statement]] = {}
    for one in statements():
        by_page.setdefault(one.page, []).append(one)
    for name, found in by_page.items():
        file = name.removeprefix("docs/")
        heading = (ROOT / name).read_text(encoding="utf-8").splitlines()[0].strip("# ")
        link = f"[{heading}]({file})" if name.startswith("docs/") else "README"
        lines += [f"## {link}", "", "| says | from |", "|---|---|"]
        for one in found:
            said = one.text.strip("| ").replace("|", "\\|")
            lines.append(f"| {said} | {one.source.replace('|', chr(92) + '|')} |")
        lines.append("")
    return "\n".join(lines)
