"""A plugin in a folder of its own, which the benchmarks' child processes find as if installed."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from commands import command

ROOT = Path(__file__).parents[2]
MANIFEST = """
import flexvar


@flexvar.hookimpl
def flexvar_backbones():
    for name in ("wrong", "leaky", "greedy", "mixer"):
        target = f"bench_plugin_parts:{name.title()}"
        yield flexvar.Component(name=name, target=target)


@flexvar.hookimpl
def flexvar_benchmarks():
    yield flexvar.Component(name="mine", target="bench_plugin_suite", summary="A plugin's own")
    yield flexvar.Component(name="half", target="bench_plugin_manifest")
"""
# Each sound but for one thing. An honest one, whose options are its Config's defaults; one whose
# step forgets a half; one that sees later scales; one that asks for more memory than there is.
PARTS = """
import torch
from torch import nn

import flexvar


class Mixer(flexvar.PrefixBackbone):
    class Config(flexvar.ComponentConfig):
        depth: int = 1
        width: int = 64
        head_dim: int = 64

    def __init__(self, config, *, facts):
        super().__init__(config, facts=facts)
        self.dense = nn.Linear(2 * config.width, config.width)

    def forward(self, x_BLD, cond_BD, layout, position):
        past = [x_BLD[:, : part.stop].mean(1, keepdim=True).expand(-1, grid.cells, -1)
                for part, grid in zip(layout.slices, layout, strict=True)]
        return x_BLD + self.dense(torch.cat([x_BLD, torch.cat(past, 1)], -1)).tanh()


class Wrong(Mixer):
    def step(self, x_BLD, state):
        return super().step(x_BLD, state) + x_BLD.roll(1, -1) / 2


class Leaky(Mixer):
    def forward(self, x_BLD, cond_BD, layout, position):
        return super().forward(x_BLD, cond_BD, layout, position) + x_BLD.mean(1, keepdim=True)


class Greedy(Mixer):
    def forward(self, x_BLD, cond_BD, layout, position):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 640.00 GiB.")
"""
# A suite whose cases are cheap, so that the runner itself is what is tried.
SUITE = """
import os
import signal
import time

import torch

from benchmarks.harness.measure import timed
from benchmarks.harness.suite import Case, Red, Section, Table

SUMMARY = "A plugin's own"
# Work that a busy machine slows as it slows the yardstick; a sleep would not be.
PRODUCTS = int(os.environ.get("BENCH_PLUGIN_PRODUCTS", "1"))


def cases(options):
    def case(name, run):
        # Rates are measured for a dtype that is named.
        dtype = {"dtype": "fp32"} if run in (sound, incomplete) else {}
        return Case("mine", name, {**dtype, "quick": options.quick}, run)

    if options.seed == 9:  # alone, so that a timeout meets no other
        return [case("slow", slow)]
    return [
        case("sound", sound), case("red", red), case("memory", memory), case("kill", kill),
        case("leave", leave), case("incomplete", incomplete),
        case("second", sound),
    ]


def sound():
    a = torch.ones(384, 384)

    def products():
        for _ in range(PRODUCTS):
            a @ a

    timing = timed(products, "cpu", repeats=15)
    return {"products": timing, "implementation": "mm", "parity": {"greatest": 0.0},
            "work": {"flops": 1e6, "bytes": 1e6, "of": "products"}}


def red():
    raise Red("it is not what it says", {"greatest": 2.0})


def memory():
    return {"bytes": len(bytearray(2**62))}


def kill():
    os.kill(os.getpid(), signal.SIGKILL)


def leave():
    print("last words", flush=True)
    os._exit(3)


def slow():
    time.sleep(600)


def incomplete():
    return {"work": {"flops": 1.0, "bytes": 1.0, "of": "nowhere"}}


def sections(rows):
    return [Section("Products", "How long they take.", tables=[Table(("case",), [
        [row["case"]] for row in rows if row.get("status") == "ok"])])]
"""


@dataclass(frozen=True)
class Bench:
    """Runs ``python -m benchmarks`` with the plugin on its path, rows going to one file."""

    folder: Path

    @property
    def out(self) -> Path:
        return self.folder / "rows.jsonl"

    def __call__(self, *arguments: Any, code: int = 0, **environment: str) -> str:
        """Standard output and error of a command that has to end with this code."""
        done = command(
            "benchmarks",
            *arguments,
            environment=environment,
            paths=[ROOT, ROOT / "plugins", self.folder / "plugin"],
            cwd=self.folder,
        )
        said = done.stdout + done.stderr
        assert done.returncode == code, said
        assert "Traceback" not in said, said
        return said

    def run(self, *arguments: Any, code: int = 0, **environment: str) -> str:
        """``run`` with this file of rows."""
        return self("run", *arguments, "--out", self.out, code=code, **environment)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.read_text().splitlines()]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    plugin = tmp_path / "plugin"
    info = plugin / "bench_plugin-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bench-plugin\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[flexvar]\nbench = bench_plugin_manifest\n")
    (plugin / "bench_plugin_manifest.py").write_text(MANIFEST)
    (plugin / "bench_plugin_parts.py").write_text(PARTS)
    (plugin / "bench_plugin_suite.py").write_text(SUITE)
    return Bench(tmp_path)
