"""Rows and where they are kept: JSON Lines, one file per machine, with machine and commit."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from flexvar.errors import FlexvarError

# What comes with flexvar, and what this checkout measured, which git does not see.
RESULTS = Path(__file__).parents[1] / "results"
ROWS = Path(__file__).parents[1] / "rows"
Row = dict[str, Any]


@cache
def machine() -> dict[str, Any]:
    """The machine and the versions that a figure holds for."""
    import flexvar

    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "flexvar": flexvar.__version__,
        "commit": _commit(),
    }


def results_file() -> Path:
    """Where the rows of this machine go unless asked otherwise."""
    info = machine()
    name = re.sub(r"[^a-z0-9]+", "-", str(info["gpu"] or info["cpu"]).lower()).strip("-")
    return ROWS / f"{name}-{info['threads']}t.jsonl"


def append(row: Mapping[str, Any], path: Path | None = None) -> Path:
    """Add a row to a results file, this machine's unless given; return its path.

    One write, flushed to the disk. Raises `FlexvarError` if it cannot be written.
    """
    path = path or results_file()
    row = {name: value for name, value in row.items() if name != "folder"}
    whole = {**row, "machine": row.get("machine") or machine(), "time": time.strftime("%F %T")}
    text = json.dumps(whole) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file() and _is_torn(path):
            text = "\n" + text  # the last run died while it wrote; its half line stays alone
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise FlexvarError(f"Cannot write {path}: {error.strerror or error}.") from None
    return path


def read(path: Path) -> list[Row]:
    """The rows of a results file, oldest first; a line that was cut off is left out.

    Raises `FlexvarError` for a file that cannot be read or holds no rows at all.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FlexvarError(f"Cannot read results from {path}: {error}.") from None
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and {"suite", "case", "settings"} <= row.keys():
            # Pictures of a suite lie beside its rows.
            rows.append(row | {"folder": str(path.parent)})
    if lines and not rows:
        raise FlexvarError(f"{path} holds no benchmark rows; name a file that `run` wrote.")
    return rows


def of_suite(path: Path, suite: str, *, quick: bool) -> list[Row]:
    """The rows of a file that a suite's quick runs left, or its whole ones."""
    rows = [row for row in read(path) if row["suite"] == suite]
    return [row for row in rows if bool(row["settings"].get("quick")) == quick]


def find(*, published: bool) -> dict[str, list[Row]]:
    """Rows by the title of their file in a report: this checkout's, or those that flexvar brings.

    The two never stand under one title, and nothing takes one for the other.
    """
    folder = RESULTS if published else ROWS
    label = "published with flexvar" if published else "measured here"
    return {f"{path.stem}, {label}": read(path) for path in sorted(folder.glob("*.jsonl"))}


def key(row: Mapping[str, Any]) -> str:
    """What makes a row: suite, case and settings, as text."""
    return json.dumps([row["suite"], row["case"], row["settings"]], sort_keys=True)


def latest(rows: Iterable[Row]) -> list[Row]:
    """The newest row of each suite, case and settings, in the order of their first."""
    found: dict[str, Row] = {}
    for row in rows:
        found[key(row)] = row
    return list(found.values())


def status(row: Mapping[str, Any]) -> str:
    """``ok``, ``red`` (the parity check failed) or ``failed``."""
    return str(row.get("status") or ("ok" if row.get("figures") else "failed"))


def _is_torn(path: Path) -> bool:
    with path.open("rb") as file:
        if not file.seek(0, os.SEEK_END):
            return False
        file.seek(-1, os.SEEK_END)
        return file.read(1) != b"\n"


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    match = re.search(r"model name\s*:\s*(.+)", text)
    return match[1] if match else platform.machine()


def _files(where: Path) -> str:
    """A mark of the code itself, for a checkout without git."""
    digest = hashlib.sha256()
    for folder in ("flexvar", "plugins", "benchmarks"):
        for path in sorted((where / folder).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:6]


def _commit() -> str:
    """The commit, and a mark of what was changed since; results are no change."""
    where = Path(__file__).parents[2]
    rest = ("--", ".", ":(exclude)benchmarks/results")

    def git(*arguments: str) -> str:
        try:
            done = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=where)
        except OSError:
            return ""
        return done.stdout.strip() if done.returncode == 0 else ""

    commit = git("rev-parse", "--short", "HEAD")
    if not commit:
        return f"files-{_files(where)}"
    changes = git("diff", "HEAD", *rest) + git("ls-files", "--others", "--exclude-standard", *rest)
    if not changes:
        return commit
    return f"{commit}-changed-{hashlib.sha256(changes.encode()).hexdigest()[:6]}"
