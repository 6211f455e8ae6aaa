"""Whatever a plugin or its metadata does, nothing else stops, and it is named."""

import json
import os
import subprocess
import sys
import textwrap

import pytest

from flexvar import Component, Registry, hookimpl


def reasons(found):
    return "\n".join(f"{f.plugin}: {f.reason}" for f in found.failures)


class Good:
    @hookimpl
    def flexvar_backbones(self):
        yield Component(name="good", target="collections:OrderedDict")


class ReturnsNone:
    @hookimpl
    def flexvar_backbones(self):
        return None


class ReturnsOne:
    @hookimpl
    def flexvar_backbones(self):
        return Component(name="one", target="a:B")


class IsACoroutine:
    @hookimpl
    async def flexvar_backbones(self):
        return [Component(name="later", target="a:B")]


class NeverEnds:
    @hookimpl
    def flexvar_backbones(self):
        number = 0
        while True:
            number += 1
            yield Component(name=f"n{number}", target="a:B")


class SilentError(Exception):
    def __str__(self):
        raise RuntimeError("no words")


class RaisesTheUnspeakable:
    @hookimpl
    def flexvar_backbones(self):
        raise SilentError


class Unhashable(Good):
    __hash__ = None

    def __eq__(self, other):
        raise RuntimeError("do not compare me")


class Unprintable:
    @hookimpl
    def flexvar_backbones(self):
        yield Component(name="red\x1b[31m", target="a:B")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("plugin", "reason"),
    [
        (ReturnsNone, "TypeError: flexvar_backbones returned None; yield flexvar.Component"),
        (ReturnsOne, "yield flexvar.Component records, or return a list"),
        (IsACoroutine, "flexvar_backbones is a coroutine; define it with def"),
        (NeverEnds, "yields more than 1000 records"),
        (RaisesTheUnspeakable, "dist:p: SilentError"),
        (Unprintable, "cannot be printed in a line"),
    ],
)
def test_hooks_that_do_not_do_as_they_should(plugin, reason):
    found = Registry(discover=False)
    found.add(plugin(), name="p", distribution="dist")
    found.add(Good(), name="q", distribution="other")
    assert found.names("backbone") == ["good"]
    assert reason in reasons(found)
    assert all(failure.traceback for failure in found.failures)


def test_plugins_that_cannot_be_hashed_or_compared():
    found = Registry(discover=False)
    for number in range(2):
        found.add(Unhashable(), name="p", distribution=f"dist{number}")
    assert {p.qualified for p in found.components} == {"dist0/good", "dist1/good"}


def distribution(folder, name, module="", metadata=b"", entries=b"", keep=("metadata", "entries")):
    if module:
        (folder / f"{name}.py").write_text(textwrap.dedent(module))
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    if "metadata" in keep:
        (info / "METADATA").write_bytes(metadata)
    if "entries" in keep:
        (info / "entry_points.txt").write_bytes(entries)


@pytest.fixture
def broken(tmp_path):
    good = """
        from flexvar import Component, hookimpl

        print("hello from a plugin")

        @hookimpl
        def flexvar_positions():
            print("and again")
            yield Component(name="NAME", target="collections:OrderedDict")
        """
    named = b"Metadata-Version: 2.1\nName: zz_%s\nVersion: 1.0\n"
    for number, metadata in enumerate((None, b"", b"\xff\xfe\x00 Name: x", named % b"3")):
        name = f"zz_{number}"
        entries = f"[flexvar]\nplugin = {name}\n".encode()
        keep = ("entries",) if metadata is None else ("metadata", "entries")
        distribution(tmp_path, name, good.replace("NAME", name), metadata or b"", entries, keep)
    unrelated = {
        "not_utf8": b"[console_scripts]\nx = \xff:\xfe\n",
        "no_section": b"x = y\n",
        "garbage": b"\x00[[[\n]=\n",
        "half": b"[console_scripts\nx\n",
    }
    for name, entries in unrelated.items():
        distribution(tmp_path, f"zz_{name}", "", named % name.encode(), entries)
    distribution(tmp_path, "zz_ours", "", named % b"ours", b"[flexvar]\nnothing\n")
    distribution(tmp_path, "zz_value", "", named % b"value", b"[flexvar]\nplugin = 1 + 1\n")
    return tmp_path


def test_metadata_that_cannot_be_read(broken, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(broken))
    found = Registry()
    assert {f"zz_{number}" for number in range(4)} <= set(found.names("position"))
    assert "learned2d" in found.names("position")
    text = reasons(found)
    assert "zz-ours:entry_points.txt: ValueError: 'nothing' is no entry point" in text
    assert "zz-value:plugin" in text
    assert "half" not in text
    assert "utf8" not in text
    assert capsys.readouterr().out == ""
    for number in range(4):
        sys.modules.pop(f"zz_{number}", None)


def test_the_list_is_json_whatever_plugins_print(broken):
    path = os.pathsep.join([str(broken), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "flexvar", "plugins", "--json"]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    names = {row["name"] for row in json.loads(done.stdout)["components"]}
    assert {"zz_0", "zz_3", "transformer"} <= names
    assert "hello from a plugin" in done.stderr


@pytest.mark.parametrize("command", [["--help"], ["plugins"]])
def test_the_light_commands_are_quick(command):
    """Half a second of processor time, and no torch."""
    code = (
        "import sys, time; from flexvar.cli import main\n"
        f"try: main({command!r})\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules\n"
        "print('TIME', time.process_time())"
    )
    times = []
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        times.append(float(done.stdout.rpartition("TIME")[2]))
    assert min(times) < 1.0  # half a second alone, but the machine may be shared
