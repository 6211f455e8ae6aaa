"""Checkpoints up to a stand-in of the hub and down again, and weights in several files."""

from __future__ import annotations

import json

import pytest
import torch
from hub_stand_in import TOKEN, serving
from PIL import Image

from flexvar import FlexvarError, Pipeline
from flexvar.locate import newest


@pytest.fixture
def hub(monkeypatch, tmp_path):
    from huggingface_hub import constants

    with serving() as hub:
        for name, value in (
            ("ENDPOINT", hub.address),
            (
                "HUGGINGFACE_CO_URL_TEMPLATE",
                hub.address + "/{repo_id}/resolve/{revision}/{filename}",
            ),
            ("HF_HUB_CACHE", str(tmp_path / "hub")),
            ("HF_HUB_DISABLE_XET", True),
        ):
            monkeypatch.setattr(constants, name, value)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "127.0.0.1")
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


def same(one: Pipeline, other: Pipeline) -> bool:
    pairs = zip(one.parts.modules(), other.parts.modules(), strict=True)
    return all(
        torch.equal(a, b)
        for first, second in pairs
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_there_and_back(hub, tiny, monkeypatch):
    from huggingface_hub import constants

    picture = Image.new("RGB", (8, 8), "red")
    said = tiny.push_to_hub(
        "me/tiny", picture=picture, figures={"FID": 12.345678}, license="mit", largest_file=200_000
    )
    assert said.startswith(f"{hub.address}/me/tiny/commit/")
    files = hub.repositories["me/tiny"].files("main")[1]
    parts = sorted(name for name in files if name.startswith("model-"))
    assert len(parts) > 2
    index = json.loads(files["model.safetensors.index.json"])
    assert set(index["weight_map"].values()) == set(parts)
    card = files["README.md"].decode()
    assert 'license: "mit"' in card
    assert "![samples](samples.png)" in card
    assert "| FID | 12.35 |" in card
    assert 'from_pretrained("me/tiny")' in card
    assert files["samples.png"].startswith(b"\x89PNG")

    assert same(Pipeline.from_pretrained("me/tiny"), tiny)
    asked = len(hub.asked)
    assert same(Pipeline.from_pretrained("me/tiny"), tiny)
    assert len(hub.asked) == asked, "what is in the cache needs no network"

    # A second upload in one file takes the parts' place, and is had by asking for the newest.
    other = Pipeline.from_config(tiny.config.model, seed=5)
    other.push_to_hub("me/tiny")
    now = hub.repositories["me/tiny"].files("main")[1]
    assert not [name for name in now if name.startswith("model-")]
    assert "model.safetensors.index.json" not in now
    assert same(Pipeline.from_pretrained("me/tiny"), tiny)
    newest("me/tiny")
    assert same(Pipeline.from_pretrained("me/tiny"), other)

    tiny.push_to_hub("me/tiny", revision="first")
    assert same(Pipeline.from_pretrained("me/tiny", revision="first"), tiny)
    assert same(Pipeline.from_pretrained("me/tiny"), other)
    with pytest.raises(FlexvarError, match="'me/tiny' has no revision 'last'"):
        Pipeline.from_pretrained("me/tiny", revision="last")
    with pytest.raises(FlexvarError, match="revision: got 'first' for 'photos'; only a hub id"):
        Pipeline.from_pretrained("photos", revision="first")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert same(Pipeline.from_pretrained("me/tiny", revision="first"), tiny)
    with pytest.raises(FlexvarError, match="HF_HUB_OFFLINE forbids"):
        Pipeline.from_pretrained("me/other")


def test_what_stands_in_the_way(hub, tiny, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    with pytest.raises(FlexvarError, match=r"did not take 'me/tiny'.*may not do this \(403\)"):
        tiny.push_to_hub("me/tiny")
    with pytest.raises(FlexvarError, match="has no repository 'me/nothing', or it is private"):
        Pipeline.from_pretrained("me/nothing")
    with pytest.raises(FlexvarError, match="is no name of a repository; expected owner/name"):
        tiny.push_to_hub("a name with spaces")
    with pytest.raises(TypeError):
        tiny.push_to_hub("me/tiny", no_such_option=1)


def test_weights_in_parts(tiny, tmp_path):
    folder = tiny.save_pretrained(tmp_path / "parts", largest_file=150_000)
    parts = sorted(path.name for path in folder.glob("model-*.safetensors"))
    assert len(parts) > 2
    assert not (folder / "model.safetensors").exists()
    assert same(Pipeline.from_pretrained(folder), tiny)
    config = json.loads((folder / "config.json").read_text())
    assert set(parts) < set(config["digests"])

    # Without digests, as other tools write it, the parts that are there are taken.
    del config["digests"]
    (folder / "config.json").write_text(json.dumps(config))
    assert same(Pipeline.from_pretrained(folder), tiny)
    (folder / parts[1]).rename(folder / "elsewhere")
    with pytest.raises(FlexvarError, match=f"is incomplete: it has no {parts[1]}"):
        Pipeline.from_pretrained(folder)
    (folder / "elsewhere").rename(folder / parts[1])
    (folder / "model-00001-of-00099.safetensors").write_bytes(b"")
    with pytest.raises(FlexvarError, match=r"parts of several saves of model\.safetensors"):
        Pipeline.from_pretrained(folder)

    tiny.save_pretrained(folder)
    assert not list(folder.glob("*-of-*"))
    assert not list(folder.glob("*.index.json"))
    assert same(Pipeline.from_pretrained(folder), tiny)
