"""Sheets that say what is on them, and ``flexvar grid``."""

import pytest
from PIL import Image, ImageChops

from flexvar import Pipeline, images
from flexvar.cli import main
from flexvar.conditions import caption_of


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(arguments))
    return int(end.value.code or 0)


def black(picture: Image.Image, box: tuple[int, int, int, int]) -> bool:
    """Whether there is writing in a box."""
    return picture.crop(box).convert("L").getextrema()[0] < 100


def test_every_cell_is_the_picture_of_its_settings(tiny_dir, tmp_path, capsys):
    out = tmp_path / "sheet.png"
    code = run(
        *("grid", "--x", "steps=2,3", "--y", "guidance=1,3.5", "--model", str(tiny_dir)),
        *("--label", "cat", "--size", "32", "--seed", "4", "--out", str(out), "--device", "cpu"),
    )
    assert code == 0, capsys.readouterr().err
    sheet = Image.open(out).convert("RGB")
    pipe = Pipeline.from_pretrained(tiny_dir)
    cells = [
        [pipe(["cat"], size=32, seed=4, steps=s, guidance=g).images[0] for s in (2, 3)]
        for g in (1.0, 3.5)
    ]
    wanted = images.sheet(
        cells, names=["guidance 1", "guidance 3.5"], columns=["steps 2", "steps 3"]
    )
    assert ImageChops.difference(sheet, wanted).getbbox() is None
    assert black(sheet, (0, 22, 60, 50))
    assert black(sheet, (sheet.width - 60, 0, sheet.width, 20))
    assert images.read_settings(out)["x"] == "steps=2,3"


def test_sizes_and_labels_may_change_too(tiny_dir, tmp_path):
    out = tmp_path / "sheet.png"
    code = run(
        *("grid", "--x", "size=16x32;32x16", "--y", "label=ant,3", "--model", str(tiny_dir)),
        *("--steps", "2", "--out", str(out), "--device", "cpu"),
    )
    assert code == 0
    assert Image.open(out).height > 2 * 32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--x", "steps"), "--x: got 'steps'; expected values of a setting"),
        (("--x", "steps=2", "--y", "steps=3"), "both change steps"),
        (("--x", "steps=2"), "There is no model; name one"),
        (("--x", "steps=two", "--model", "photos"), "--steps: got 'two'"),
    ],
)
def test_mistakes(arguments, message, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("grid", *arguments) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_captions_stand_below_and_are_cut():
    pictures = [Image.new("RGB", (40, 30), "red")] * 3
    plain = images.contact_sheet(pictures)
    named = images.contact_sheet(pictures, ["ant", "a name that is far too long", ""])
    assert plain.size == (82, 62)
    assert named.width == plain.width
    assert black(named, (0, 30, 40, 46))
    assert not black(named, (0, 79, 40, named.height))
    assert caption_of(1, ("ant, Formica", "bee, Apis")) == "bee"
    assert caption_of(7, None) == "7"
    assert caption_of(None, ("ant",)) == ""
