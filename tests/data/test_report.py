"""``flexvar data``: a report on what a source holds."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
import typer
from pictures import folder, noise, truncated
from PIL import Image
from typer.testing import CliRunner

from flexvar import FlexvarError
from flexvar.cli.data import data
from flexvar.data import DataConfig
from flexvar.data.report import sheet, survey

app = typer.Typer()
app.command()(data)


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_counts_sizes_and_unreadable_files_by_name(tmp_path: Path) -> None:
    root = folder(tmp_path / "data", {"cat": 10, "[dog]": 2}, size=(40, 90))
    truncated(root / "cat" / "broken picture.jpg")
    (root / "cat" / "notes.txt").write_text("none")
    text = run(root)
    assert "broken picture.jpg cannot be read as a picture" in text
    assert "Unreadable: 1" in text
    assert "left out: 1 .txt" in text
    assert "Smaller than 64x64, would be enlarged: 12" in text
    rows = [line.replace("│", " ").split() for line in text.splitlines()]
    assert ["0", "[dog]", "1", "1"] in rows
    assert ["height", "40", "40", "40"] in rows
    assert ["width", "90", "90", "90"] in rows


def test_a_contact_sheet_is_written(tmp_path: Path) -> None:
    root = folder(tmp_path / "data", {"cat": 10, "dog": 2})
    (root / "hollow").mkdir()
    truncated(root / "dog" / "bad.jpg")
    text = run(root, "--sheet", tmp_path / "sheet.png", "--size", "32x48")
    assert "Classes without a readable picture to train on: hollow" in text
    with Image.open(tmp_path / "sheet.png") as image:
        # Two rows of 32 px, eight columns of 48.
        assert image.height == 2 * 34 - 2
        assert image.width > 8 * 50


def test_a_contact_sheet_of_many_classes(tmp_path: Path) -> None:
    root = folder(tmp_path, {f"c{n}": 1 for n in range(40)})
    config = DataConfig(source=str(root), size=64)
    assert sheet(config, survey(config)).height == 24 * 66 - 2


def test_shards(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for number in range(3):
            file = io.BytesIO()
            noise(20, 30).save(file, format="PNG")
            content = file.getvalue() if number else b"broken"
            info = tarfile.TarInfo(f"k{number}.png")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    text = run(tmp_path, "--sheet", tmp_path / "sheet.png")
    assert "Unreadable: 1" in text
    assert "k0 cannot be read as a picture" in text
    assert (tmp_path / "sheet.png").is_file()


def test_buckets_are_shown(tmp_path: Path) -> None:
    root = folder(tmp_path / "data", {"cat": 10, "dog": 2}, size=(40, 90))
    assert "Bucket" not in run(root)
    text = run(root, "--size", "32", "--buckets", "16")
    assert "Bucket 16x48" in text or "Bucket 16x32" in text, text
    assert "9 pictures" in text or "10 pictures" in text, text
    assert "% cropped" in text


def test_the_built_in_sets() -> None:
    pytest.importorskip("sklearn")
    assert "1438" in run("digits")


def test_nothing_readable_is_a_report_too(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.jpg").write_bytes(b"no")
    assert "Unreadable: 1" in run(tmp_path)
    with pytest.raises(FlexvarError, match="no picture can be read, so there is no contact sheet"):
        run(tmp_path, "--sheet", tmp_path / "s.png")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent"], "there is no such folder"),
        (["photos", "--size", "big"], "--size: got 'big'; expected pixels"),
        (["photos", "--sheet", "absent/s.png"], "--sheet absent/s.png: there is no folder"),
    ],
)
def test_mistakes_are_explained(arguments: list[str], message: str) -> None:
    with pytest.raises(FlexvarError, match=message):
        run(*arguments)
