"""Runs cases, each in a child process, and writes a row as each ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness import record
from benchmarks.harness.record import Row
from benchmarks.harness.suite import Case, Options
from flexvar.errors import FlexvarError

# Of a child's output, for the reason of a row whose process died.
TAIL = 300


@dataclass
class Run:
    """A run of some cases of one suite after another.

    out: the results file. again: also cases that have a row. budget: seconds, from now and for
    all suites, after which no new case starts. timeout: seconds after which a case is
    stopped and counted as failed. jobs: cases side by side. show: called with each row. say:
    called with a line of text.
    """

    options: Options
    out: Path
    again: bool = False
    budget: float | None = None
    timeout: float | None = None
    jobs: int = 1
    show: Callable[[Row], Any] = print
    say: Callable[[str], Any] = print
    _begun: float = field(default_factory=time.monotonic)

    def __call__(self, suite: str, cases: Sequence[Case]) -> bool:
        """Whether every row is sound, those of earlier runs with the same commit included.

        suite: as the user named it.
        """
        done = self._done()
        kept = [done[key] for case in cases if (key := _key(case)) in done]
        waiting = [case for case in cases if _key(case) not in done]
        if kept:
            bad = sum(record.status(row) != "ok" for row in kept)
            self.say(
                f"{len(kept)} of {len(cases)} cases have their row of this commit already"
                + (f", {bad} of them red or failed" if bad else "")
                + "; --again measures them anew."
            )
        sound = all(record.status(row) == "ok" for row in kept)
        running: list[Child] = []
        try:
            while waiting or running:
                if waiting and self._spent():
                    self.say(
                        f"The budget of {self.budget:g} s is spent; {len(waiting)} of "
                        f"{len(cases)} cases are left. The same command goes on with them."
                    )
                    waiting = []
                while waiting and len(running) < self.jobs:
                    running.append(self._start(suite, waiting.pop(0)))
                for child in [child for child in running if child.ended(self._limit(child))]:
                    running.remove(child)
                    row = self._finish(child)
                    sound &= row["status"] == "ok"
                time.sleep(0.05)
        except KeyboardInterrupt:
            self.say("Stopped; rows of finished cases are kept. The same command goes on.")
            raise
        finally:
            for child in running:
                child.stop()
        return sound

    def _limit(self, child: Child) -> float | None:
        limits = [one for one in (self.timeout, child.case.limit_s) if one is not None]
        return min(limits, default=None)

    def _spent(self) -> bool:
        return self.budget is not None and time.monotonic() - self._begun >= self.budget

    def _done(self) -> dict[str, Row]:
        """Rows of this commit by suite, case and settings."""
        if self.again or not self.out.is_file():
            return {}
        commit = record.machine()["commit"]
        rows = record.latest(record.read(self.out))
        return {
            record.key(row): row for row in rows if row.get("machine", {}).get("commit") == commit
        }

    def _start(self, suite: str, case: Case) -> Child:
        request = {
            "suite": suite,
            "case": case.name,
            "options": asdict(self.options),
            "commit": record.machine()["commit"],
        }
        return Child(request, self.jobs, case)

    def _finish(self, child: Child) -> Row:
        found, why = child.result()
        row: Row = {
            "suite": child.case.suite,
            "case": child.case.name,
            "settings": _plain(child.case.settings),
            "seed": self.options.seed,
            **(found or {"status": "failed", "reason": why, "seconds": child.seconds}),
        }
        record.append(row, self.out)
        self.show(row)
        return row


class Child:
    """A process that runs one request, and what became of it."""

    def __init__(self, request: dict[str, Any], jobs: int, case: Case) -> None:
        self.case = case
        self._folder = tempfile.TemporaryDirectory(prefix="flexvar-benchmark-")
        folder = Path(self._folder.name)
        (folder / "request.json").write_text(json.dumps(request))
        self._result, self._log = folder / "result.json", folder / "log"
        environment = dict(os.environ)
        root = str(Path(__file__).parents[2])
        environment["PYTHONPATH"] = os.pathsep.join(
            [root, *filter(None, [environment.get("PYTHONPATH")])]
        )
        if jobs > 1:
            share = max(1, (os.cpu_count() or 1) // jobs)
            environment.setdefault("OMP_NUM_THREADS", str(share))
        command = [sys.executable, "-m", "benchmarks.harness.process"]
        self._begun = time.monotonic()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, str(folder / "request.json"), str(self._result)],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
            )
        self._timed_out: float | None = None
        self.seconds = 0.0

    def ended(self, timeout: float | None) -> bool:
        """Whether the process is over; one that takes longer than ``timeout`` is ended."""
        if self._process.poll() is None:
            self.seconds = round(time.monotonic() - self._begun, 2)
            if timeout is None or self.seconds < timeout:
                return False
            self._timed_out = timeout
            self.stop()
        return True

    def stop(self) -> None:
        """End the process now."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def result(self) -> tuple[dict[str, Any] | None, str]:
        """What the process wrote, or None and why there is nothing."""
        try:
            return json.loads(self._result.read_text()), ""
        except (OSError, ValueError):
            return None, self._why()
        finally:
            self._folder.cleanup()

    def _why(self) -> str:
        if self._timed_out is not None:
            return f"took longer than {self._timed_out:g} s and was stopped"
        code = self._process.returncode
        if code < 0:
            name = signal.Signals(-code).name
            cause = " (the system does so when memory runs out)" if -code == signal.SIGKILL else ""
            return f"its process was killed by {name}{cause}"
        tail = self._log.read_text(errors="replace").strip().splitlines()
        return f"its process ended with code {code}: {(tail or ['no output'])[-1][:TAIL]}"


def choose(suites: Mapping[str, Sequence[Case]], text: str) -> dict[str, list[Case]]:
    """The cases of each suite whose name contains a text, of suites that have any.

    Raises `FlexvarError` if there is none at all, and for two cases of one name.
    """
    chosen = {}
    for suite, cases in suites.items():
        names = [case.name for case in cases]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise FlexvarError(f"Suite {suite!r} has two cases of one name: {', '.join(twice)}.")
        if found := [case for case in cases if text.lower() in case.name.lower()]:
            chosen[suite] = found
    if not chosen:
        if len(suites) > 1:  # too many to name
            raise FlexvarError(
                f"No case contains {text!r}; see `python -m benchmarks list SUITE`. "
                f"Suites: {', '.join(suites)}."
            )
        every = "; ".join(case.name for cases in suites.values() for case in cases)
        raise FlexvarError(f"No case contains {text!r}. Cases: {every or 'none'}.")
    return chosen


def _plain(settings: Any) -> Any:
    """As read back from JSON."""
    return json.loads(json.dumps(settings))


def _key(case: Case) -> str:
    return record.key({"suite": case.suite, "case": case.name, "settings": _plain(case.settings)})
