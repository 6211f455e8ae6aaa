"""A studio over two small models, a client for it, and a server in a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

pytest.importorskip("starlette", reason="needs the extra web")
pytest.importorskip("httpx", reason="needs httpx")

import uvicorn
from helpers import TINY, shake
from starlette.testclient import TestClient

from flexvar import Pipeline
from flexvar.web.app import create
from flexvar.web.serve import _listen
from flexvar.web.studio import Studio


@pytest.fixture(scope="module")
def studio() -> Iterator[Studio]:
    names = ["ant", "bee", "<script>alert(1)</script>", "dog & 'cat'", "eel"]
    other = {**TINY, "class_names": names}
    made = Studio(
        {
            "tiny": shake(Pipeline.from_config(TINY, seed=1)),
            "other": shake(Pipeline.from_config(other, seed=2)),
        }
    )
    yield made
    made.close()


@pytest.fixture
def client(studio: Studio) -> TestClient:
    return TestClient(create(studio), base_url="http://127.0.0.1:7860")


@pytest.fixture(scope="module")
def address(studio: Studio) -> Iterator[str]:
    listener = _listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(create(studio), log_level="warning"))
    thread = threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(timeout=10)
