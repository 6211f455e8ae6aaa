"""Fixtures shared by all tests: golden checkpoints and a pipeline small enough to run."""

from __future__ import annotations

import json
import os
import signal
import threading

# Tests run side by side, and so do the processes they start: threads that wait for each other by
# spinning would take the cores from one another. Before torch, which reads it once.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
from flexvar_plugins.released import convert
from helpers import GOLDEN, TINY, Golden, shake
from hypothesis import HealthCheck, settings
from safetensors.torch import load_file

from flexvar import Pipeline

# How fast examples are made says how busy the machine is, nothing of the code.
settings.register_profile("busy", suppress_health_check=[HealthCheck.too_slow], deadline=None)
settings.load_profile("busy")

# Distributions of their own, which are tested in environments of their own.
collect_ignore = ["example_plugin", "old_plugin"]


def pytest_configure() -> None:
    """Undo what a shell does that starts the tests in the background: Ctrl-C would be ignored."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    if in_main_thread and signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", params=["flexvar", "var", "var_k10"])
def golden(request: pytest.FixtureRequest) -> Golden:
    folder = GOLDEN / request.param
    config = json.loads((folder / "config.json").read_text())
    pipe = convert(
        tokenizer=folder / "tokenizer.safetensors",
        model=folder / "transformer.safetensors",
        scales=config["scales"],
    )
    return Golden(request.param, config, pipe, load_file(folder / "io.safetensors"))


@pytest.fixture(scope="session")
def tiny() -> Pipeline:
    """A random FlexVAR of depth 2, stride 4, 5 named classes."""
    return shake(Pipeline.from_config(TINY, seed=1))


@pytest.fixture(scope="session")
def tiny_dir(tiny: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_pretrained(tmp_path_factory.mktemp("checkpoint") / "tiny")
