"""Pictures on the disk: nothing is overwritten, each says how it was made and can be made again."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from flexvar import FlexvarError, Pipeline, images
from flexvar.cli import main
from flexvar.result import next_number


def run(*arguments: object) -> int:
    """A command in this process; its exit code."""
    try:
        main([str(one) for one in arguments])
    except SystemExit as end:
        return int(end.code or 0)
    return 0


def pixels(path: Path) -> bytes:
    return Image.open(path).tobytes()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_numbers_go_on_and_no_source_is_overwritten(tiny_dir: Path, place: Path) -> None:
    assert run("generate", "--model", tiny_dir, "--label", "cat", "--num", 2, "--seed", 0) == 0
    before = {p.name: pixels(p) for p in place.glob("out/*.png")}
    assert set(before) == {"00000.png", "00001.png", "grid.png"}
    sources = ("--image", "out/00000.png", "--image", "out/00001.png")
    edit = ("edit", "outpaint", "--model", tiny_dir, *sources, "--margins", 8)
    assert run(*edit, "--label", "dog", "--seed", 1) == 0
    assert {p.name: pixels(p) for p in place.glob("out/*.png") if p.name in before} == before
    assert (place / "out" / "00003.png").exists()
    assert run("generate", "--model", tiny_dir, "--label", "ant", "--num", 2, "--seed", 3) == 0
    assert (place / "out" / "00005.png").exists()
    assert (place / "out" / "grid-00004.png").exists()
    assert {p.name: pixels(p) for p in place.glob("out/*.png") if p.name in before} == before
    assert next_number(place / "out") == 6
    assert next_number(place / "none") == 0


def test_the_library_goes_on_too(tiny: Pipeline, tmp_path: Path) -> None:
    result = tiny(["cat"], seed=0)
    assert [path.name for path in result.save(tmp_path)] == ["00000.png"]
    assert [path.name for path in result.save(tmp_path)] == ["00001.png"]
    assert [path.name for path in result.save(tmp_path, start=0)] == ["00000.png"]


def test_an_image_of_a_label_is_the_same_whoever_stands_beside_it(
    tiny_dir: Path, place: Path
) -> None:
    call = ("generate", "--model", tiny_dir, "--seed", 0)
    assert run(*call, "--label", "cat", "--label", "dog", "--num", 2, "--out", "both") == 0
    assert run(*call, "--label", "dog", "--num", 2, "--out", "alone") == 0
    assert run(*call, "--label", "dog", "--index", 1, "--out", "one") == 0
    assert pixels(place / "both" / "00002.png") == pixels(place / "alone" / "00000.png")
    assert pixels(place / "both" / "00003.png") == pixels(place / "alone" / "00001.png")
    assert pixels(place / "one" / "00000.png") == pixels(place / "alone" / "00001.png")


@pytest.mark.parametrize(
    "options",
    [
        ("--size", "24x16", "--steps", 5, "--guidance", 3, "--top-k", 7),
        ("--sampler", "interval", "--steps", 4),
        ("--soft", "--size", 16),
    ],
)
def test_a_picture_is_made_again_from_itself(
    tiny_dir: Path, place: Path, options: tuple[object, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_dir, place / "tiny")
    call = ("generate", "--model", "tiny", "--label", "eel", "--label", "bee", "--num", 3)
    assert run(*call, *options, "--seed", 11, "--out", "first") == 0
    for number in (1, 4):
        picture = place / "first" / f"{number:05d}.png"
        assert run("generate", "--from", picture, "--out", f"again{number}") == 0
        assert pixels(place / f"again{number}" / "00000.png") == pixels(picture)
    assert "Not the same" not in capfd.readouterr().err
    picture = place / "first" / "00000.png"
    assert run("generate", "--from", picture, "--seed", 12, "--out", "other") == 0
    assert pixels(place / "other" / "00000.png") != pixels(picture)


def test_other_weights_are_said(
    tiny_dir: Path, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(tiny_dir, place / "tiny")
    assert run("generate", "--model", "tiny", "--label", "eel", "--seed", 1) == 0
    settings = images.read_settings(place / "out" / "00000.png")
    assert settings["checkpoint"] == "tiny"
    weights = (place / "tiny" / "model.safetensors").read_bytes()
    assert settings["weights"]["model"] == hashlib.sha256(weights).hexdigest()[:16]
    pipe = Pipeline.from_pretrained("tiny")
    pipe.model.start_embedding.data += 1
    pipe.save_pretrained("tiny")
    assert run("generate", "--from", "out/00000.png", "--out", "again") == 0
    assert "weights are others" in capfd.readouterr().err
    shutil.move("tiny", "moved")
    assert run("generate", "--from", "out/00000.png", "--out", "again") == 2
    assert "--model" in capfd.readouterr().err
    assert run("generate", "--from", "out/00000.png", "--model", "moved", "--out", "again") == 0


def test_what_cannot_be_made_again_says_why(
    tiny_dir: Path, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (8, 8)).save("plain.png")
    assert run("generate", "--from", "plain.png") == 2
    assert "no settings" in capfd.readouterr().err
    assert run("generate", "--model", tiny_dir, "--label", "eel", "--size", 16, "--seed", 1) == 0
    assert run("edit", "expand", "--model", tiny_dir, "--image", "out/00000.png", "--label", 1) == 0
    assert run("generate", "--from", "out/00001.png", "--model", tiny_dir) == 2
    assert "is an edit" in capfd.readouterr().err
    broken = {"size": [10**9, 16], "steps": [[1, 1]], "seed": 0, "index": 0, "label": "eel"}
    for change in ({}, {"size": "big"}, {"steps": None}, {"seed": [1]}):
        images.save_png(Image.new("RGB", (8, 8)), "bad.png", broken | change)
        assert run("generate", "--from", "bad.png", "--model", tiny_dir) == 2
        assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_pictures_say_that_a_model_made_them(tmp_path: Path, ending: str) -> None:
    picture = Image.new("RGB", (16, 16), "red")
    images.save_picture(picture, tmp_path / f"a.{ending}")
    images.save_picture(picture, tmp_path / f"b.{ending}", mark=False)
    said = b"trainedAlgorithmicMedia"
    assert said in (tmp_path / f"a.{ending}").read_bytes()
    assert said not in (tmp_path / f"b.{ending}").read_bytes()
    xmp = Image.open(tmp_path / f"a.{ending}").info["xmp"]
    assert said in xmp
    packet = xmp.partition(b"?>")[2].rpartition(b"<?xpacket")[0]
    assert ElementTree.fromstring(packet).tag == "{adobe:ns:meta/}xmpmeta"
    with pytest.raises(FlexvarError, match="ends in"):
        images.save_picture(picture, tmp_path / "a.tiff")


def test_the_mark_is_off_when_told(tiny_dir: Path, place: Path) -> None:
    call = ("generate", "--model", tiny_dir, "--label", "eel", "--size", 16)
    assert run(*call) == 0
    assert run(*call, "--no-mark") == 0
    said = [b"trainedAlgorithmicMedia" in p.read_bytes() for p in sorted(place.glob("out/*.png"))]
    assert said == [True, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--label", "cat,dog"), "--label cat --label dog"),
        ((), "Classes: ant, bee, cat, dog, eel"),
        (("--label", "cat", "--guidance", "-2"), "guidance"),
        (("--label", "cat", "--out", "out.png"), "directory"),
    ],
)
def test_mistakes_are_answered(
    tiny_dir: Path,
    place: Path,
    options: tuple[object, ...],
    message: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert run("generate", "--model", tiny_dir, *options) == 2
    assert message in capfd.readouterr().err
    assert not list(place.glob("out*"))


def test_an_option_given_twice_is_said(
    tiny_dir: Path, place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    call = ("generate", "--model", tiny_dir, "--label", "cat", "--label", "dog")
    assert run(*call, "--size", 16, "--size", 32) == 0
    said = capfd.readouterr().err
    assert "--size is given 2 times" in said
    assert "--label is" not in said
    assert Image.open(place / "out" / "00000.png").size == (32, 32)


def test_a_default_never_warns(tmp_path: Path) -> None:
    code = (
        "import warnings; warnings.simplefilter('error'); from flexvar import Pipeline;"
        "Pipeline.from_pretrained('photos')('cat', seed=0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_result_is_a_line(tiny: Pipeline) -> None:
    text = repr(tiny(["cat", None], seed=0, size=16))
    assert "2 of 16x16 px" in text
    assert len(text) < 300
    assert json.dumps(tiny(["cat"], seed=0).settings)
