"""Text of files and names, fit to be shown."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from flexvar.text import markdown, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text", "plain text"),
        ("Köln 日本 🐙 a\u200db", "Köln 日本 🐙 a\u200db"),
        ("a\x1b[31mb\n\r\t\x00\x7f", r"a\x1b[31mb\n\r\t\x00\x7f"),
        (os.fsdecode(b"caf\xe9"), r"caf\xe9"),
        ("\ud800 alone", r"\ud800 alone"),
        ("gpj.\u202eexe", r"gpj.\u202eexe"),
        ("line\u2028end", r"line\u2028end"),
        (Path("a\nb"), r"a\nb"),
        (7, "7"),
    ],
)
def test_printable(text: object, shown: str) -> None:
    assert printable(text) == shown
    printable(text).encode("utf-8")


def test_printable_keeps_lines_and_bounds_where_asked() -> None:
    assert printable("a\nb\x07", lines=True) == "a\nb\\x07"
    assert len(printable("x" * 100_000, most=100)) < 120

    class Bad:
        def __str__(self) -> str:
            raise RuntimeError

    assert printable(Bad()) == "<Bad>"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", r"a\|b"),
        ("<script> [x](y) *b* _c_ `d`", r"\<script\> \[x\](y) \*b\* \_c\_ \`d\`"),
        ("- item", r"\- item"),
        ("1. item", r"1\. item"),
        ("two\nlines", r"two\\nlines"),
        ("# title", r"\# title"),
        ("2026-11-25 cat-2", "2026-11-25 cat-2"),
    ],
)
def test_markdown(text: str, shown: str) -> None:
    assert markdown(text) == shown


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_a_command_prints_class_names_of_any_script(tmp_path: Path, encoding: str) -> None:
    for name in ("Köln", "日本", "[red]\x1b[31m"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (9, 9)).save(tmp_path / name / "a.png")
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "FORCE_COLOR": "1", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "flexvar", "data", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr.decode()
    shown = done.stdout.decode(encoding)
    assert "\x1b[31m" not in shown
    assert r"[red]\x1b[31m" in shown
    assert ("日本" if encoding == "utf-8" else r"\u65e5\u672c") in shown


def test_a_message_steers_no_terminal() -> None:
    command = [sys.executable, "-m", "flexvar", "data", "no\x1b[2Jfolder"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 2
    assert b"\x1b" not in done.stderr
    assert rb"no\x1b[2Jfolder" in done.stderr
