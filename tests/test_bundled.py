"""The models that come with the package, and the page that shows them."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flexvar import Pipeline
from flexvar.cli import main
from flexvar.data.emoji import drawings
from flexvar.locate import bundled_names, locate

MODELS = ["photos", "photos-mamba"]


def test_bundled_models_are_small():
    assert bundled_names() == ["emoji", *MODELS]
    size = sum(f.stat().st_size for name in bundled_names() for f in locate(name).iterdir())
    assert size < 40e6


def test_emoji_takes_words_and_names():
    pytest.importorskip("wordllama")
    pipe = Pipeline.from_pretrained("emoji")
    tall = pipe(prompts=["octopus"], size=(128, 64), steps=5, seed=0)
    assert tall.images[0].size == (64, 128)
    by_name = pipe(labels=["octopus"], size=(64, 64), steps=4, seed=0).maps
    by_words = pipe(prompts=["octopus"], size=(64, 64), steps=4, seed=0).maps
    assert all(torch.equal(a, b) for a, b in zip(by_name, by_words, strict=True))


def test_the_emoji_is_the_one_asked_for():
    """A drawing is likelier under its own name, and under a word that no caption holds."""
    pytest.importorskip("wordllama")
    pipe = Pipeline.from_pretrained("emoji")
    pictures = {one.name: one.picture() for one in drawings()}
    asked = ["octopus", "red apple", "rocket", "cat face"]
    assert pipe.classify([pictures[name] for name in asked], labels=asked) == asked
    words = pipe.score(pictures["cat face"], prompts=["kitten", "tractor"])
    assert words.best == ["kitten"]


def test_without_a_model_a_bundled_one_is_taken(tmp_path: Path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["generate", "--label", "flower", "--steps", "4", "--out", str(tmp_path / "a")])
    assert not stop.value.code
    assert "model photos, which comes along" in capsys.readouterr().out
    assert (tmp_path / "a" / "00000.png").is_file()
    with pytest.raises(SystemExit) as stop:
        main(["generate", "--out", str(tmp_path / "b")])
    assert stop.value.code == 2
    assert "There is no model; name one" in capsys.readouterr().err


@pytest.mark.parametrize("name", MODELS)
def test_generates_by_name_at_any_size(name: str):
    pipe = Pipeline.from_pretrained(name)
    assert len(pipe.class_names) == 16
    with pytest.warns(UserWarning, match="9 steps are outside"):
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
