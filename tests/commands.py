"""Commands as processes of their own that need not load torch: forked from one that has.

Two seconds of processor time each, of some hundred commands. A few tests start commands as a user
does; what a command reads while its modules load, an environment variable, takes that way too.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LOADED = ["torch", "flexvar.pipeline", "flexvar.training.train", "flexvar.cli.output"]


def command(
    module: str,
    *arguments: object,
    environment: Mapping[str, str] | None = None,
    paths: Sequence[object] = (),
    cwd: Path | None = None,
    timeout: float = 240,
) -> subprocess.CompletedProcess[str]:
    """``python -m module arguments``: its exit code and all it wrote.

    environment: beside that of the tests. paths: before all others on the path of modules, and
    of processes that the command starts. Raises `subprocess.TimeoutExpired` as `subprocess.run`.
    """
    words = [*map(str, arguments)]
    added = [*map(str, paths), *filter(None, [os.environ.get("PYTHONPATH")])]
    variables = {**os.environ, **(environment or {}), "PYTHONPATH": os.pathsep.join(added)}
    whole = [sys.executable, "-m", module, *words]
    if os.name == "nt":
        return subprocess.run(
            whole, env=variables, cwd=cwd, capture_output=True, text=True, timeout=timeout
        )
    context: Any = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    with tempfile.TemporaryDirectory() as folder:
        files = [os.path.join(folder, name) for name in ("out", "err")]
        given = module, words, variables, [*map(str, paths)], cwd, files
        process = context.Process(target=_run, args=given)
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(whole, timeout)
        said = [Path(file).read_text(encoding="utf-8", errors="replace") for file in files]
    return subprocess.CompletedProcess(whole, process.exitcode, *said)


def _run(
    module: str,
    words: list[str],
    variables: dict[str, str],
    paths: list[str],
    cwd: Path | None,
    files: list[str],
) -> None:
    """What the child does; it ends with the command's exit code."""
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600), number)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(cwd or os.getcwd())
    sys.path[:0] = paths
    sys.argv = [module, *words]
    code: Any = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code or 0)
