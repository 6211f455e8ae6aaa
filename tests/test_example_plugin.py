"""A plugin distribution that flexvar has never seen, installed into an environment of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLE = Path(__file__).parent / "example_plugin"
# As it was when there were four kinds; not a line of it is to be changed.
OLD = Path(__file__).parent / "old_plugin"
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = "## Write a plugin"

pytestmark = pytest.mark.slow

GENERATE = """
import sys, torch, flexvar
from flexvar import Pipeline
assert flexvar.__file__.startswith(sys.prefix), flexvar.__file__
parts = {"tokenizer": {"name": "patches", "vocab_size": 40}, "backbone": "mean_mixer",
         "position": "ramp", "schedule": "doubling", "num_classes": 3}
pipe = Pipeline.from_config(parts, seed=1)
call = dict(labels=[0, 2, None], size=(20, 32), seed=5, output="tensor")
before = pipe(**call)
assert [tuple(m.shape[1:]) for m in before.maps] == [(1, 1), (2, 2), (4, 4), (5, 8)]
pipe.save_pretrained(sys.argv[1])
after = Pipeline.from_pretrained(sys.argv[1])(**call)
assert torch.equal(before.images, after.images) and before.settings == after.settings
mixed = {**parts, "tokenizer": {"name": "residual", "channels": 32, "vocab_size": 40},
         "position": "learned2d", "schedule": "ladder"}
assert Pipeline.from_config(mixed)(0, size=64, seed=0).images[0].size == (64, 64)
"""


NEW_KINDS = """
import json, sys, torch
from pathlib import Path
from flexvar import FlexvarError, Pipeline, build
parts = {"tokenizer": {"name": "patches", "vocab_size": 40}, "backbone": "mean_mixer",
         "position": "ramp", "schedule": "doubling", "conditioner": "palette", "num_classes": 1}
pipe = Pipeline.from_config(parts, seed=1)
model = pipe.model
inputs = model.conditioner.collate(["#ff0000", None, "#00ff00 #0000ff"])
from flexvar import Layout
layout = Layout.of(1, 2, 4)
images = torch.rand(3, 3, 16, 16) * 2 - 1
from flexvar.build import component
from flexvar.config import ComponentSpec
import random
objective = component("objective", ComponentSpec(name="late", factor=3.0), model.facts)
pairs = objective.pairs(pipe.tokenizer, pipe.tokenizer.features(images), layout, random.Random(0))
logits = model(inputs, pairs.inputs_BLC, layout)
losses = objective.loss(logits, pairs.targets) * pairs.weight_BL
losses.mean().backward()
assert model.conditioner.color.weight.grad.any()
folder = pipe.save_pretrained(sys.argv[1])
recorded = json.loads((Path(folder) / "config.json").read_text())["distributions"]
assert recorded["backbone mean_mixer"] == "flexvar-example==0.1", recorded
assert recorded["conditioner palette"] == "flexvar-example==0.1", recorded
again = Pipeline.from_pretrained(folder).model(inputs, pairs.inputs_BLC, layout)
assert torch.equal(again, logits.detach())
labeled = Pipeline.from_config({**parts, "conditioner": "label"}, seed=1)
cool = labeled(0, size=16, seed=3, sampler="cooling", first=1.0, last=0.01, progress=False)
assert cool.settings["sampler"] == "cooling" and cool.settings["last"] == 0.01
"""


@dataclass(frozen=True)
class Environment:
    """A virtual environment with flexvar in it, not editable."""

    folder: Path

    def run(self, *command: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess:
        """What a command of the environment gave; standard error joins standard output."""
        program, *rest = map(str, command)
        variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
        return subprocess.run(
            [str(self.folder / "bin" / program), *rest],
            cwd=cwd or self.folder,
            env={**variables, "OMP_NUM_THREADS": "1"},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )

    def test(self, folder: Path, *options: str) -> subprocess.CompletedProcess:
        """What pytest gave for a folder of tests, with nothing of it on the import path."""
        modes = ("--import-mode=importlib", "-p", "no:cacheprovider")
        return self.run("python", "-m", "pytest", *modes, *options, folder, cwd=folder)

    def install(self, source: Path) -> Path:
        """Install a distribution from a copy of its folder, and return the copy."""
        copy = self.folder / "sources" / source.name
        ignored = shutil.ignore_patterns(".*", "build", "*.egg-info", "__pycache__")
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(source, copy, ignore=ignored)
        options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index")
        python = self.folder / "bin" / "python"
        done = subprocess.run(
            [sys.executable, "-m", "pip", "--python", python, "install", *options, copy],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return copy


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return new_environment(tmp_path_factory)


@pytest.fixture(scope="module")
def old_environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return new_environment(tmp_path_factory)


def new_environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with flexvar as it is here."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    # torch and the rest are read from where they are; flexvar here comes first and is its own.
    (library,) = folder.glob("lib/python*/site-packages")
    (library / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    # A copy, so that no build folder of the working tree gets in.
    source = folder / "flexvar-source"
    for name in ("flexvar", "plugins"):
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "setup.cfg", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    made = Environment(folder)
    made.install(source)
    return made


def test_it_lists_generates_saves_loads_and_passes_its_contract(
    environment: Environment, tmp_path: Path
) -> None:
    installed = environment.install(EXAMPLE)
    listed = environment.run("flexvar", "plugins", "--json")
    assert listed.returncode == 0, listed.stdout
    ours = {
        (one["kind"], one["name"])
        for one in json.loads(listed.stdout)["components"]
        if one["distribution"] == "flexvar-example"
    }
    assert ours == {
        ("backbone", "mean_mixer"),
        ("position", "ramp"),
        ("schedule", "doubling"),
        ("tokenizer", "patches"),
        ("conditioner", "palette"),
        ("sampler", "cooling"),
        ("objective", "late"),
    }
    light = "import sys, flexvar; flexvar.available('backbone'); assert 'torch' not in sys.modules"
    assert environment.run("python", "-c", light).returncode == 0
    done = environment.run("python", "-c", GENERATE, tmp_path / "saved")
    assert done.returncode == 0, done.stdout
    done = environment.run("python", "-c", NEW_KINDS, tmp_path / "colors")
    assert done.returncode == 0, done.stdout
    shown = environment.run("flexvar", "plugins", "cooling")
    assert "first: float = 1.2\n      Temperature of the first scale." in shown.stdout, shown.stdout
    tests = environment.test(installed / "tests")
    assert "7 passed" in tests.stdout, tests.stdout


def test_a_plugin_of_four_kinds_works_as_it_always_did(
    old_environment: Environment, tmp_path: Path
) -> None:
    saved = tmp_path / "saved"
    installed = old_environment.install(OLD)
    done = old_environment.run("python", "-c", GENERATE, saved)
    assert done.returncode == 0, done.stdout
    tests = old_environment.test(installed / "tests")
    assert "4 passed" in tests.stdout, tests.stdout
    # Without the plugin, what is missing is named, and how to get it.
    load = (
        "import os; os.environ['FLEXVAR_DISABLE'] = 'flexvar-example'; "
        f"from flexvar import Pipeline; Pipeline.from_pretrained({str(saved)!r})"
    )
    without = old_environment.run("python", "-c", load)
    assert without.returncode != 0
    assert "pip install flexvar-example==0.1" in without.stdout, without.stdout
    assert "backbone mean_mixer" in without.stdout


def test_a_copy_with_a_leak_from_a_later_scale_fails_its_contract(
    environment: Environment, tmp_path: Path
) -> None:
    copy = tmp_path / "leaking"
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    module = copy / "flexvar_example" / "backbone.py"
    sound = module.read_text()
    leaking = sound.replace("x_BLD[:, : part.stop].mean(", "x_BLD.mean(")
    assert leaking != sound
    module.write_text(leaking)
    installed = environment.install(copy)
    tests = environment.test(installed / "tests", "-k", "backbone")
    assert tests.returncode == 1, tests.stdout
    found = (
        r"no later scale is seen: mean_mixer\+ramp\+patches: layout 1, 2, 4, scale 0 \(1x1\): .*"
    )
    assert re.search(found + r"differ by [\d.e-]+ of the largest", tests.stdout), tests.stdout


@pytest.mark.skipif(SECTION not in README, reason=f"README.md has no section {SECTION!r}")
def test_the_readmes_plugin_installs_generates_and_passes_its_contract(
    environment: Environment, tmp_path: Path
) -> None:
    section = README.split(SECTION, 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"```\w+\n# (\S+)\n(.*?)```", section, flags=re.DOTALL)
    files = dict(blocks)
    package = [name for name in files if "/" in name]
    lines = [line for name in package for line in files[name].splitlines() if line.strip()]
    assert len(lines) <= 15, "the README promises a backbone in 15 lines of Python"
    folder = tmp_path / "readme_plugin"
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    installed = environment.install(folder)
    used = environment.run("python", folder / "use_it.py", cwd=tmp_path)
    assert used.returncode == 0, used.stdout
    assert (tmp_path / "mine.png").is_file()
    tests = environment.test(installed)
    assert "1 passed" in tests.stdout, tests.stdout
