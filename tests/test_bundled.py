"""The models that come with the package, and the page that shows them."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flexvar import Pipeline
from flexvar.locate import bundled_names, locate

MODELS = ["photos", "photos-mamba"]


def test_bundled_models_are_small():
    assert bundled_names() == MODELS
    size = sum(f.stat().st_size for name in bundled_names() for f in locate(name).iterdir())
    assert size < 20e6


@pytest.mark.parametrize("name", MODELS)
def test_generates_by_name_at_any_size(name: str):
    pipe = Pipeline.from_pretrained(name)
    assert len(pipe.class_names) == 16
    with pytest.warns(UserWarning, match="64x96 px is outside"):
        result = pipe(["cat"], size=(64, 96), steps=9, seed=0)
    assert result.images[0].size == (96, 64)


@pytest.mark.parametrize("name", MODELS)
def test_knows_its_classes(name: str):
    """Pictures of two classes are likelier under their own label."""
    pipe = Pipeline.from_pretrained(name)
    images = pipe(["flower", "rocket"], seed=0, output="tensor").images
    assert pipe.classify(images, labels=["flower", "rocket"]) == ["flower", "rocket"]


def test_photos_keeps_a_picture():
    skimage = pytest.importorskip("skimage")
    pipe = Pipeline.from_pretrained("photos")
    from PIL import Image

    cat = Image.fromarray(skimage.data.chelsea()).crop((100, 0, 400, 300)).resize((64, 64))
    from flexvar.images import to_tensor

    again = pipe.reconstruct(cat, output="tensor")[0] * 2 - 1
    error = (again - to_tensor(cat)).square().mean()
    assert 10 * torch.log10(4 / error) > 20  # dB


def test_the_demo_is_one_page_whose_path_stands_alone(tmp_path: Path):
    command = [sys.executable, "-m", "flexvar", "demo", "--out", str(tmp_path / "d")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = Path(done.stdout.splitlines()[-1])
    assert page == (tmp_path / "d" / "index.html").resolve()
    text = page.read_text()
    assert text.count("data:image/png;base64,") > 30
    assert "src='http" not in text
    none = subprocess.run([*command, "--model", "nowhere"], capture_output=True, text=True)
    assert none.returncode == 2
    assert "There is no checkpoint nowhere" in none.stderr
