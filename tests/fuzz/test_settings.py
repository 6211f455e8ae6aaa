"""Settings in PNG files, which come from anybody: made again, or refused by a message."""

import io
import json
import random
import warnings

import pytest
from mutations import ODD, bytes_changed, try_all, values_changed
from PIL import Image, PngImagePlugin

from flexvar import images
from flexvar.cli import again, main


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def settings(tiny):
    return tiny(["cat"], size=(16, 24), steps=4, guidance=2.0, top_k=5, seed=3).image_settings(0)


def noted(text):
    """A PNG file with these settings."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt(images.SETTINGS_KEY, text)
    data = io.BytesIO()
    Image.new("RGB", (4, 4)).save(data, format="PNG", pnginfo=info)
    return data.getvalue()


def changed(settings, random):
    """Settings as a file may have them: values of every kind in every place, or damaged text."""
    if random.random() < 0.2:
        text = bytes_changed(json.dumps(settings).encode(), random).decode("utf-8", "replace")
        return text.replace("\0", "0")
    if random.random() < 0.5:
        values = {**settings, random.choice(list(settings)): random.choice(ODD)}
    else:
        values = values_changed(settings, random)
    return json.dumps(values)


def test_pictures_made_again(tiny, settings, tmp_path):
    path = tmp_path / "a.png"

    def make(random):
        path.write_bytes(noted(changed(settings, random)))
        return path

    def make_again(path):
        found = images.read_settings(path)
        call = again.call_of(found, tiny, path)
        again.differences(found, tiny)
        tiny(**call, progress=False)

    try_all(250, make, make_again)


def test_models_that_pictures_name(settings, tmp_path):
    names = [*ODD, "x" * 300, "a\0b", "/", "~", "a/" * 3000, "https://x", "\\\\host\\share"]

    def make(random):
        return {**settings, "checkpoint": random.choice(names)}

    try_all(60, make, lambda found: again.model_of(found, None, tmp_path / "a.png"))


def test_the_command(tiny_dir, settings, tmp_path, capsys):
    path = tmp_path / "a.png"
    good = json.dumps(settings)
    ends = set()
    for seed in range(5):
        path.write_bytes(noted(changed(settings, random.Random(1000 + seed)) if seed else good))
        command = ["generate", "--from", path, "--model", tiny_dir, "--out", tmp_path / "out"]
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in command])
        ends.add(end.value.code or 0)
    assert ends == {0, 2}
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": [float("inf"), 8]}, "not those of a generated picture"),
        ({"seed": float("inf")}, "not those of a generated picture"),
        ({"size": [8192, 8192], "steps": [[1, 1], [2048, 2048]]}, "4,194,305 tokens"),
        ({"steps": [[1, 1]] * 100_000}, "100000 steps of 100,000 tokens"),
        ({"steps": "x" * 9}, "not those of a generated picture"),
    ],
)
def test_what_would_take_all_time_or_memory_is_refused(tiny, settings, tmp_path, change, message):
    from flexvar import FlexvarError

    with pytest.raises(FlexvarError, match=message):
        again.call_of({**settings, **change}, tiny, tmp_path / "a.png")


def changed_body(random):
    body = {"model": "tiny", "value": "cat", "size": [16, 24], "seed": 3, "steps": 4}
    return {**body, random.choice(list(body)): random.choice(ODD), "model": random.choice(ODD)}


def test_the_playground(settings):
    pytest.importorskip("starlette")
    pytest.importorskip("httpx")
    from starlette.testclient import TestClient

    from flexvar.web.app import create
    from flexvar.web.studio import Studio

    studio = Studio({})
    client = TestClient(create(studio), base_url="http://127.0.0.1:7860")

    def make(random):
        data = noted(changed(settings, random))
        return bytes_changed(data, random) if random.random() < 0.3 else data

    def upload(data):
        answer = client.post("/api/settings", content=data)
        assert answer.status_code in (200, 400), answer.status_code
        assert isinstance(json.loads(answer.text, parse_constant=pytest.fail), dict)

    def ask(body):
        answer = client.post("/api/generate", content=json.dumps(body))
        assert answer.status_code in (400, 404, 422), answer.status_code
        json.loads(answer.text)

    try:
        try_all(150, make, upload)
        try_all(40, changed_body, ask)
    finally:
        studio.close()
