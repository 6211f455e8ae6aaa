"""One case in a process: ``python -m benchmarks.harness.process REQUEST.json RESULT.json``.

A process of its own, so that a case that is killed takes nothing with it, that its peak memory is
its own, and that no case finds what another left behind.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks import suites
from benchmarks.harness import checkout, record, roofline
from benchmarks.harness.load import Load
from benchmarks.harness.suite import Case, Options, Red
from flexvar.errors import FlexvarError, is_out_of_memory
from flexvar.files import whole_file
from flexvar.ops.memory import keep_freed_memory

# Keys of the figures that become the row's own.
LIFTED = ("parity", "implementation")


def find(suite: str, name: str, options: Options) -> Case:
    """The case of this name. Raises `FlexvarError` if the suite no longer has it."""
    for case in suites.load(suite).cases(options):
        if case.name == name:
            return case
    raise FlexvarError(
        f"Suite {suite!r} has no case {name!r} in this process; cases(options) has to give the "
        "same cases whenever it is called."
    )


def execute(case: Case) -> dict[str, Any]:
    """A row's status, reason, figures and what was compared; never raises what a case may."""
    row: dict[str, Any] = {"status": "ok"}
    start, load = time.perf_counter(), Load()
    try:
        with load:
            figures = dict(case.run())
        row |= {key: figures.pop(key) for key in LIFTED if key in figures}
        row["figures"] = json.loads(json.dumps(figures))
    except Red as red:
        row |= {"status": "red", "reason": str(red)}
        if red.parity:
            row["parity"] = red.parity
    except Exception as error:
        text = str(error).strip()
        first = text.splitlines()[0] if text else "no message"
        what = "out of memory" if is_out_of_memory(error) else type(error).__name__
        row |= {"status": "failed", "reason": f"{what}: {first}", "at": _where(error)}
        traceback.print_exc()
    row["seconds"] = round(time.perf_counter() - start, 2)
    row["load"] = load.found
    if row["status"] == "ok":
        _set_limit(row, case.settings)
    return row


def _set_limit(row: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Add what the device can do at most, measured now, beside the case.

    A machine that is busier or slower than an hour ago is so for both.
    """
    figures, dtype = row["figures"], settings.get("dtype")
    if not figures.get("work") or not dtype:
        return
    try:
        figures["limit"] = roofline.beside(figures, str(settings.get("device", "cpu")), str(dtype))
    except (KeyError, TypeError) as error:
        row |= {"status": "failed", "reason": f"its figures' work is incomplete: {error}"}
    except RuntimeError as error:  # no memory is left for it; the case's own figures stand
        row["no_limit"] = str(error).splitlines()[0]


def _where(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{Path(frame.filename).name}:{frame.lineno}"


def main() -> None:
    """Read a request, write the result to a temporary name and move it there."""
    checkout.make_ready()
    request, result = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    if sys.platform.startswith("linux"):
        # Where memory runs out it is this process that goes, not the one that writes the row.
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")
    keep_freed_memory()  # as flexvar's own commands do
    given = dict(request["options"])
    if given.get("backbones"):
        given["backbones"] = tuple(given["backbones"])
    found = execute(find(request["suite"], request["case"], Options(**given)))
    found["machine"] = record.machine() | {"commit": request["commit"]}
    with whole_file(result) as temporary:
        temporary.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
