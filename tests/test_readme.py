"""The README's blocks run as they stand, from small stand-ins for the released files."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import GOLDEN
from PIL import Image
from safetensors.torch import load_file

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(heading: str, language: str) -> list[str]:
    """The fenced blocks of a language below a heading, up to the next heading of its level."""
    section = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", README, re.M | re.S)
    assert section, f"README.md has no section {heading!r}"
    return re.findall(rf"^```{language}\n(.*?)^```", section[1], re.M | re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files named as the README names them."""
    path = tmp_path_factory.mktemp("readme")
    tokenizer = load_file(GOLDEN / "flexvar" / "tokenizer.safetensors")
    torch.save({"model": tokenizer}, path / "FlexVAE.pth")
    model = load_file(GOLDEN / "flexvar" / "transformer.safetensors")
    torch.save(model, path / "FlexVARd16-epo179.pth")
    Image.radial_gradient("L").resize((80, 64)).save(path / "photo.jpg")
    return path


def run(folder: Path, *command: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def small(text: str) -> str:
    """The stand-in has 10 classes: ImageNet's dog and parrot become 7 and 8."""
    return text.replace("207", "7").replace("88", "8")


def test_released_checkpoints(folder: Path):
    (shell,) = blocks("Generate with released checkpoints", "bash")
    for line in shell.strip().splitlines():
        program, *arguments = shlex.split(small(line))
        assert program == "flexvar"
        run(folder, sys.executable, "-m", "flexvar", *arguments)
    assert Image.open(folder / "pictures" / "00001.png").size == (384, 256)
    (python,) = blocks("Generate with released checkpoints", "python")
    run(folder, sys.executable, "-c", small(python))
    assert (folder / "dog.png").exists()
    assert (folder / "as_the_tokenizer_sees_it.png").exists()


def test_combining_parts(folder: Path):
    (python,) = blocks("Combine parts", "python")
    check = "\nassert logits_BLV.shape == (2, layout.tokens, 512)\n"
    run(folder, sys.executable, "-c", python + check)


def test_the_table_of_components_is_complete():
    from flexvar.plugin import KINDS, default_registry

    for kind in KINDS:
        for provided in default_registry().components:
            if provided.kind == kind and provided.distribution == "flexvar":
                assert f"`{provided.component.name}`" in README
