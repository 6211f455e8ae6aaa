"""Reading weights: every file that is none is said for what it is, and nothing runs or hangs."""

import argparse
import json
import os
import pathlib
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from flexvar import FlexvarError
from flexvar.errors import LONGEST_MESSAGE, shown
from flexvar.text import printable
from flexvar.weights import read_weights

WEIGHTS = {"a": torch.ones(2)}


def saved(path, data=WEIGHTS, **options):
    torch.save(data, path, **options)
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"junk", "truncated or no PyTorch file"),
        (b"", "is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", r"Git LFS pointer.*lfs pull"),
        (b"\n <!DOCTYPE html><html>", "a web page: .* Download the file itself"),
        (b'{"a": 1}', "JSON file without weights"),
        (b"\x1f\x8b\x08", r"compressed \(gzip\). Unpack it"),
        (b"\x93NUMPY", "a numpy array"),
        (pickle.dumps({"a": 1}, protocol=4), "plain pickle of pickle protocol 4"),
        (b"\x00" * 64, "truncated or no PyTorch file"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".bin"])
def test_other_files(tmp_path, content, message, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(content)
    with pytest.raises(FlexvarError, match=message):
        read_weights(path)


def test_a_file_is_known_by_its_contents(tmp_path):
    for name in ("x.bin", "x.pth", "x.safetensors"):
        save_file(WEIGHTS, tmp_path / name)
        assert torch.equal(read_weights(tmp_path / name)["a"], WEIGHTS["a"])
        saved(tmp_path / name)
        assert torch.equal(read_weights(tmp_path / name)["a"], WEIGHTS["a"])
    saved(tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(read_weights(tmp_path / "old.pth")["a"], WEIGHTS["a"])


def test_pickle_protocol_4_is_said(tmp_path):
    path = saved(tmp_path / "x.pth", pickle_protocol=4)
    with pytest.raises(FlexvarError, match="PyTorch file in pickle protocol 4, which cannot be"):
        read_weights(path)


def test_plain_values_beside_the_weights_are_no_danger(tmp_path):
    beside = {
        "best": np.float64(3.5),
        "count": np.int64(3),
        "curve": np.arange(4.0),
        "folder": pathlib.Path("x"),
        "args": argparse.Namespace(depth=1),
    }
    data = read_weights(saved(tmp_path / "x.pth", {"model": WEIGHTS, **beside}))
    assert torch.equal(data["model"]["a"], WEIGHTS["a"])


def test_shards_and_their_index(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "model-1.safetensors")
    saved(tmp_path / "model-2.bin", {"b": torch.zeros(1)})
    names = {"a": "model-1.safetensors", "b": "model-2.bin"}
    index = tmp_path / "model.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    files = [tmp_path / name for name in names.values()]
    for source in (index, tmp_path, files):
        assert sorted(read_weights(source)) == ["a", "b"]
    with pytest.raises(FlexvarError, match="both hold 'a'"):
        read_weights([files[0], files[0]])
    index.write_text(json.dumps({"weight_map": {"a": "model-3.safetensors"}}))
    with pytest.raises(FlexvarError, match="'model-3.safetensors' is not beside it"):
        read_weights(index)
    index.write_text(json.dumps({"weight_map": {"a": "../x"}}))
    with pytest.raises(FlexvarError, match="does not lie beside it"):
        read_weights(index)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_what_never_ends_is_not_waited_for(tmp_path):
    from flexvar import Pipeline
    from flexvar.config import load_yaml

    os.mkfifo(tmp_path / "pipe")
    for path, what in ((tmp_path / "pipe", "a pipe"), ("/dev/zero", "a device")):
        for read in (read_weights, load_yaml):
            with pytest.raises(FlexvarError, match=f"it is {what}; give a regular file"):
                read(path)
    (tmp_path / "model").mkdir()
    os.mkfifo(tmp_path / "model" / "config.json")
    with pytest.raises(FlexvarError, match="it is a pipe"):
        Pipeline.from_pretrained(tmp_path / "model")


def test_bombs_are_refused(tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "x.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\x00" * 2**24)
    with pytest.raises(FlexvarError, match="unpacks to 16,777,216 bytes"):
        read_weights(tmp_path / "x.pth")


def test_messages_are_short_and_can_be_printed():
    assert len(str(FlexvarError("x" * 300_000))) < LONGEST_MESSAGE + 100
    assert str(FlexvarError("a\x1b[2J\ud800\nb")) == "a\\x1b[2J\\ud800\nb"
    assert len(shown(["x" * 10_000] * 10_000)) < 400
    assert shown(10**5000)  # Python refuses to write it out
    endless: list = []
    endless.append(endless)
    assert shown(endless)
    assert printable("ä漢🎨") == "ä漢🎨"
