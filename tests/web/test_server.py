"""The playground's server: what it makes, what it refuses, and that it stays alive."""

from __future__ import annotations

import base64
import io
import json
import random
import re
from importlib import resources
from typing import Any

import numpy as np
import pytest
from asking import follow, run
from PIL import Image
from starlette.testclient import TestClient

from flexvar import images
from flexvar.web import requests
from flexvar.web.app import STATIC, create
from flexvar.web.studio import MOST_WAITING, Studio


def file(size: tuple[int, int] = (16, 24), seed: int = 0, kind: str = "PNG") -> bytes:
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(noise).save(data, format=kind)
    return data.getvalue()


def text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def test_the_page_has_all_it_needs(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert "playground.js" in page.text
    assert "script-src 'self'" in page.headers["content-security-policy"]
    for name, kind in STATIC.items():
        answer = client.get(f"/static/{name}")
        assert answer.headers["content-type"].startswith(kind)
    assert client.get("/static/app.py").status_code == 404
    assert client.get("/static/..%2fapp.py").status_code == 404


def test_no_byte_that_is_sent_names_an_address_outside(client: TestClient) -> None:
    sent = [client.get(path).text for path in ("/", "/docs", "/api/models")]
    sent += [resources.files("flexvar.web").joinpath("static", n).read_text() for n in STATIC]
    for one in sent:
        for found in re.findall(r"(?:https?:)?//[\w.-]+", one):
            assert re.match(r"(http:)?//(127\.0\.0\.1|localhost)", found), found


def test_a_picture_grows_and_carries_its_settings(client: TestClient) -> None:
    body = {"model": "tiny", "value": "bee", "size": [16, 24], "seed": 3}
    events = run(client, "/api/generate", body)
    kinds = [event["event"] for event in events]
    assert kinds[:2] == ["queued", "started"]
    assert kinds[-1] == "done"
    scales = [event for event in events if event["event"] == "scale"]
    assert scales[0]["grid"] == [1, 1]
    assert scales[-1]["grid"] == [4, 6]
    assert len(scales) == scales[0]["steps"] == len(events[-1]["layout"])
    assert opened(base64.b64decode(scales[0]["previews"][0])).size == (4, 4)
    made = events[-1]["pictures"][0]
    answer = client.get(made["url"])
    picture = opened(answer.content)
    assert picture.size == (24, 16)
    settings = images.read_settings(io.BytesIO(answer.content))
    assert settings["label"] == "bee"
    assert settings["seed"] == 3
    assert client.post("/api/settings", content=answer.content).json() == settings


def test_the_same_seed_is_the_same_picture_as_the_library_makes(
    client: TestClient, studio: Studio
) -> None:
    body = {"model": "tiny", "value": 2, "seed": 7, "options": {"top_k": 5}, "previews": False}
    made = run(client, "/api/generate", body)[-1]["pictures"][0]
    own = studio.pipelines["tiny"]([2], seed=7, top_k=5).images[0]
    picture = opened(client.get(made["url"]).content).convert("RGB")
    assert picture.tobytes() == own.tobytes()


def test_going_on_from_a_scale_keeps_those_before(client: TestClient, studio: Studio) -> None:
    first = run(client, "/api/generate", {"model": "tiny", "value": 1, "seed": 1})[-1]
    picture = first["pictures"][0]["id"]
    body = {"model": "tiny", "value": 1, "seed": 2, "start": {"picture": picture, "scale": 1}}
    second = run(client, "/api/generate", body)[-1]["pictures"][0]["id"]
    before, after = studio.pictures[picture], studio.pictures[second]
    same = [bool((a == b).all()) for a, b in zip(before.maps, after.maps, strict=True)]
    assert same[:2] == [True, True]
    assert not all(same)


@pytest.mark.parametrize("task", ["inpaint", "edit", "outpaint", "refine"])
def test_edits_keep_what_is_known(client: TestClient, task: str) -> None:
    data = file()
    body: dict[str, Any] = {
        "model": "tiny",
        "task": task,
        "image": text(data),
        "value": "ant",
        "seed": 0,
    }
    mask = Image.new("L", (24, 16))
    mask.paste(255, (4, 4, 12, 12))
    stream = io.BytesIO()
    mask.save(stream, format="PNG")
    body |= {
        "inpaint": {"mask": text(stream.getvalue())},
        "edit": {"box": [4, 4, 12, 12]},
        "outpaint": {"margins": [0, 8, 0, 8]},
        "refine": {"size": [32, 48]},
    }[task]
    done = run(client, "/api/edit", body)[-1]
    assert done["event"] == "done", done
    result = np.asarray(opened(client.get(done["pictures"][0]["url"]).content).convert("RGB"))
    own = np.asarray(opened(data))
    if task in ("inpaint", "edit"):
        assert (result[:, 16:] == own[:, 16:]).all()
        assert (result[4:12, 4:12] != own[4:12, 4:12]).any()
    elif task == "outpaint":
        assert result.shape == (16, 40, 3)
        assert (result[:, 12:28] == own[:, 4:20]).all()
    else:
        assert result.shape == (32, 48, 3)


def test_what_a_model_thinks_of_a_picture(client: TestClient) -> None:
    done = run(client, "/api/score", {"model": "tiny", "image": text(file())})[-1]
    assert len(done["best"]) == 5
    assert sum(one["share"] for one in done["best"]) == pytest.approx(1, abs=1e-3)
    assert {one["value"] for one in done["best"]} == {"ant", "bee", "cat", "dog", "eel"}
    nats = [v for scale in done["heat"] for row in scale["nats"] for v in row]
    assert min(nats) > 0
    assert sum(nats) == pytest.approx(-done["best"][0]["nats"], rel=1e-3)


def test_a_running_job_stops_within_a_scale(client: TestClient, studio: Studio) -> None:
    body = {"model": "tiny", "value": 0, "size": [256, 256], "num": 8}
    job = client.post("/api/generate", json=body).json()["job"]
    waiting = client.post("/api/generate", json=body).json()["job"]
    assert client.delete(f"/api/jobs/{waiting}").status_code == 200
    assert client.delete(f"/api/jobs/{job}").status_code == 200
    assert follow(client, waiting)[-1]["event"] == "cancelled"
    assert follow(client, job)[-1]["event"] == "cancelled"
    assert client.delete("/api/jobs/none").status_code == 404
    assert run(client, "/api/generate", {"model": "tiny"})[-1]["event"] == "done"


def test_a_full_queue_says_so(client: TestClient) -> None:
    body = {"model": "tiny", "value": 0, "size": [256, 256], "num": 8}
    answers = [client.post("/api/generate", json=body) for _ in range(MOST_WAITING + 3)]
    assert answers[-1].status_code == 429
    for answer in answers:
        if answer.status_code == 202:
            client.delete(f"/api/jobs/{answer.json()['job']}")


def test_clients_of_other_services_are_understood(client: TestClient) -> None:
    body = {"prompt": "cat", "n": 2, "size": "24x16", "seed": 0, "model": "tiny"}
    data = client.post("/v1/images/generations", json=body).json()["data"]
    assert [opened(base64.b64decode(one["b64_json"])).size for one in data] == [(24, 16)] * 2
    url = client.post("/v1/images/generations", json={**body, "response_format": "url"}).json()
    assert client.get(url["data"][0]["url"]).status_code == 200
    assert [one["id"] for one in client.get("/v1/models").json()["data"]] == ["tiny", "other"]
    hole = Image.new("RGBA", (24, 16), (0, 0, 0, 255))
    hole.paste((0, 0, 0, 0), (0, 0, 8, 16))
    stream = io.BytesIO()
    hole.save(stream, format="PNG")
    answer = client.post(
        "/v1/images/edits",
        data={"prompt": "cat", "model": "tiny", "seed": "0"},
        files={"image": ("a.png", file()), "mask": ("b.png", stream.getvalue())},
    )
    assert answer.status_code == 200, answer.text
    edited = np.asarray(
        opened(base64.b64decode(answer.json()["data"][0]["b64_json"])).convert("RGB")
    )
    assert (edited[:, 14:] == np.asarray(opened(file()))[:, 14:]).all()
    assert "/v1/images/generations" in client.get("/docs").text


GOOD: dict[str, Any] = {"model": "tiny", "value": 0}
HUGE = "x" * 3000
BAD: list[tuple[str, Any]] = [
    ("/api/generate", b""),
    ("/api/generate", b"{"),
    ("/api/generate", b"\xff\xfe"),
    ("/api/generate", b"[" * 5000),
    ("/api/generate", b"null"),
    ("/api/generate", b"[]"),
    ("/api/generate", b'{"model": "tiny", "seed": 1e400}'),
    ("/api/generate", b'{"model": "tiny", "seed": NaN}'),
    ("/api/generate", {}),
    *[
        ("/api/generate", GOOD | change)
        for change in (
            {"model": "none"},
            {"model": "../../etc"},
            {"model": HUGE},
            {"model": 3},
            {"value": "zebra"},
            {"value": 99},
            {"value": -1},
            {"value": [0]},
            {"value": 1.5},
            {"size": [15, 16]},
            {"size": [0, 16]},
            {"size": [-16, 16]},
            {"size": [16]},
            {"size": "16x16"},
            {"size": [4096, 16]},
            {"size": [2048, 2048]},
            {"steps": 0},
            {"steps": 1000},
            {"steps": 50},
            {"steps": "ten"},
            {"seed": -1},
            {"seed": 2**60},
            {"num": 0},
            {"num": 1000},
            {"options": {"gidance": 1}},
            {"options": {"top_k": "many"}},
            {"options": {"top_p": 0}},
            {"options": {"temperature": -1}},
            {"options": []},
            {"start": {"picture": "none", "scale": 0}},
            {"start": {"picture": "none"}},
            {"surplus": 1},
            {"previews": "yes"},
        )
    ],
    ("/api/edit", GOOD | {"task": "inpaint", "image": "%%%"}),
    ("/api/edit", GOOD | {"task": "inpaint", "image": text(b"no picture")}),
    ("/api/edit", GOOD | {"task": "inpaint", "image": text(file())}),
    ("/api/edit", GOOD | {"task": "inpaint", "image": text(file()[:200]), "mask": text(file())}),
    ("/api/edit", GOOD | {"task": "edit", "image": text(file())}),
    ("/api/edit", GOOD | {"task": "refine", "image": text(file())}),
    ("/api/edit", GOOD | {"task": "outpaint", "image": text(file()), "margins": [9999, 0, 0, 0]}),
    ("/api/edit", GOOD | {"task": "paint", "image": text(file())}),
    ("/api/edit", GOOD | {"task": "inpaint", "image": text(file((8, 2100))), "mask": text(file())}),
    ("/api/score", {"model": "tiny", "image": ""}),
    ("/api/score", {"model": "tiny", "image": text(file()), "values": "cat"}),
    ("/api/settings", b"no picture"),
    ("/api/settings", file()),
    ("/v1/images/generations", {"prompt": "zebra"}),
    ("/v1/images/generations", {"prompt": "cat", "size": "big"}),
    ("/v1/images/generations", {"prompt": "cat", "n": 99}),
    ("/v1/images/generations", {"n": 1}),
    ("/v1/images/edits", b"--x"),
]


@pytest.mark.parametrize("number", range(len(BAD)))
def test_what_is_wrong_is_answered_with_a_message(client: TestClient, number: int) -> None:
    address, body = BAD[number]
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = client.post(address, content=content)
    assert 400 <= answer.status_code < 500, answer.text
    assert answer.json()["error"]["message"]
    assert len(answer.text) < 2000


def test_jobs_that_fail_say_why(client: TestClient) -> None:
    body = {"task": "edit", "image": text(file()), "box": [10, 10, 4, 4]}
    assert "box" in run(client, "/api/edit", GOOD | body)[-1]["message"]
    body = {"task": "refine", "image": text(file()), "size": [16, 24]}
    assert "no larger" in run(client, "/api/edit", GOOD | body)[-1]["message"]


def test_strangers_are_refused(client: TestClient, studio: Studio) -> None:
    assert client.get("/", headers={"host": "evil.example"}).status_code == 421
    assert client.get("/", headers={"host": "127.0.0.1.evil.example:7860"}).status_code == 421
    assert client.get("/", headers={"origin": "http://evil.example"}).status_code == 403
    assert client.get("/", headers={"origin": "null"}).status_code == 403
    assert client.get("/", headers={"origin": "http://127.0.0.1:7860"}).status_code == 200
    assert client.get("/", headers={"host": "localhost:1"}).status_code == 200
    guarded = TestClient(create(studio, host="0.0.0.0", token="secret"))
    assert guarded.get("/").status_code == 401
    assert guarded.get("/", headers={"authorization": "Bearer wrong"}).status_code == 401
    assert guarded.get("/", headers={"authorization": "Bearer secret"}).status_code == 200
    assert guarded.get("/?token=secret").status_code == 200
    assert guarded.get("/api/models").status_code == 200, "the page's cookie lets its scripts ask"


def test_large_bodies_are_refused(client: TestClient) -> None:
    answer = client.post("/api/generate", content=b" " * (requests.MOST_BYTES + 1))
    assert answer.status_code == 413

    def endless() -> Any:
        for _ in range(requests.MOST_BYTES // 2**16 + 2):
            yield b" " * 2**16

    assert client.post("/api/generate", content=endless()).status_code == 413


def test_mutated_requests_never_end_the_server(client: TestClient) -> None:
    random_source = random.Random(0)
    base = json.dumps(GOOD | {"size": [16, 16], "options": {"top_k": 3}, "previews": False})
    for _ in range(200):
        body = bytearray(base.encode())
        for _ in range(random_source.randrange(1, 4)):
            body[random_source.randrange(len(body))] = random_source.randrange(256)
        answer = client.post("/api/generate", content=bytes(body))
        assert answer.status_code == 202 or 400 <= answer.status_code < 500
        if answer.status_code == 202:
            follow(client, answer.json()["job"])
    assert run(client, "/api/generate", GOOD)[-1]["event"] == "done"
