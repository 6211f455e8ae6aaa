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
from helpers import GOLDEN
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
    Image.radial_gradient("L").point(lambda v: 255 * (v < 90)).resize((80, 64)).save(
        path / "mask.png"
    )
    for name in ("cats", "dogs"):
        (path / "pictures-to-train" / name).mkdir(parents=True)
        for number in range(3):
            picture = Image.effect_noise((90, 80), 40 + 60 * number).convert("RGB")
            picture.save(path / "pictures-to-train" / name / f"{number}.png")
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
    (text,) = blocks("Generate with released checkpoints", "bash")
    shell(folder, text)
    assert Image.open(folder / "pictures" / "00001.png").size == (384, 256)
    (python,) = blocks("Generate with released checkpoints", "python")
    run(folder, sys.executable, "-c", small(python))
    assert (folder / "dog.png").exists()
    assert (folder / "as_the_tokenizer_sees_it.png").exists()


def shell(folder: Path, text: str) -> None:
    """Run the lines of a shell block, all commands of flexvar."""
    for line in text.strip().splitlines():
        program, *arguments = shlex.split(small(line))
        assert program == "flexvar"
        run(folder, sys.executable, "-m", "flexvar", *arguments)


def test_editing(folder: Path):
    if not (folder / "flexvar-d16").exists():
        shell(folder, blocks("Generate with released checkpoints", "bash")[0].splitlines()[0])
    shell(folder, blocks("Edit", "bash")[0])
    assert Image.open(folder / "outpainted" / "00000.png").size == (120, 64)
    run(folder, sys.executable, "-c", small(blocks("Edit", "python")[0]))
    assert (folder / "scales.webp").exists()


def test_training(folder: Path):
    pytest.importorskip("accelerate")
    (text,) = blocks("Train on your own pictures", "bash")
    text = text.replace("=pictures ", "=pictures-to-train ").replace(
        "data pictures ", "data pictures-to-train "
    )
    shell(folder, text.replace("steps=1500", "steps=2"))
    assert Image.open(folder / "generated" / "00000.png").size == (64, 64)


def test_combining_parts(folder: Path):
    (python,) = blocks("Combine parts", "python")
    check = "\nassert logits_BLV.shape == (2, layout.tokens, 512)\n"
    run(folder, sys.executable, "-c", python + check)


def test_the_tables_of_components_are_complete():
    from flexvar.plugin import KINDS, default_registry

    pages = (Path(__file__).parents[1] / "docs").glob("*.md")
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    for kind in KINDS:
        for provided in default_registry().components:
            if provided.kind == kind and provided.distribution == "flexvar":
                assert f"`{provided.component.name}`" in text, (kind, provided.component.name)
