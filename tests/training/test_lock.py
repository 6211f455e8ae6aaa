"""Two runs cannot be in one directory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flexvar import FlexvarError
from flexvar.training.lock import held

HOLD = """
import sys
from pathlib import Path
from flexvar.training.lock import held
with held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.mark.skipif(os.name == "nt", reason="needs record locks")
def test_the_second_is_told_who_holds_it_and_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"
        told = pytest.raises(FlexvarError, match=rf"is in use: process {first.pid} on .+, since")
        with told, held(tmp_path):
            pass
    finally:
        first.kill()
        first.communicate()
    with held(tmp_path):
        pass
