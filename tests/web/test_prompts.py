"""The playground over a model of Infinity's kind: words, scales, in-painting."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator

import pytest
import torch
from asking import run
from PIL import Image
from safetensors.torch import save_file
from starlette.testclient import TestClient

from flexvar import Pipeline
from flexvar.web.app import create
from flexvar.web.studio import Studio

WORDS = "a lighthouse"
MODEL = {
    "tokenizer": {"name": "bsq", "code_dim": 8, "channels": 16, "groups": 4, "blocks": 1,
                  "channel_multipliers": [1, 1], "projection_kernel": 0, "attention": False},
    "backbone": {"name": "transformer", "depth": 2, "width": 32, "num_heads": 2, "levels": 4,
                 "shared_modulation": True, "cross_attention": True, "cross_norm": True},
    "position": "rope2d",
    "schedule": {"name": "aspect_lists", "steps": [4]},
}  # fmt: skip


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    path = tmp_path_factory.mktemp("features") / "captions.safetensors"
    save_file({WORDS: torch.randn(3, 12)}, path)
    conditioner = {"name": "attention_pool", "encoder": "embeddings", "source": str(path),
                   "channels": 12, "max_tokens": 6, "pool_heads": 2}  # fmt: skip
    studio = Studio({"bits": Pipeline.from_config({**MODEL, "conditioner": conditioner})})
    yield TestClient(create(studio), base_url="http://127.0.0.1:7860")
    studio.close()


def test_words_become_a_picture_that_is_painted_on(client: TestClient) -> None:
    body = {"model": "bits", "value": WORDS, "size": [12, 12], "seed": 3}
    events = run(client, "/api/generate", body)
    assert events[-1]["event"] == "done", events[-1]
    scales = [event for event in events if event["event"] == "scale"]
    assert [event["grid"] for event in scales] == [[1, 1], [2, 2], [4, 4], [6, 6]]
    made = client.get(events[-1]["pictures"][0]["url"]).content
    mask, stream = Image.new("L", (12, 12)), io.BytesIO()
    mask.paste(255, (0, 0, 6, 12))
    mask.save(stream, format="PNG")
    image, hole = (base64.b64encode(data).decode() for data in (made, stream.getvalue()))
    body |= {"task": "inpaint", "image": image, "mask": hole}
    body.pop("size")
    done = run(client, "/api/edit", body)[-1]
    assert done["event"] == "done", done


def test_words_that_nobody_encoded_are_answered_with_a_message(client: TestClient) -> None:
    body = {"model": "bits", "value": "a lighthouze", "size": [12, 12], "seed": 3}
    answer = client.post("/api/generate", json=body)
    assert answer.status_code == 400
    assert "Did you mean 'a lighthouse'?" in answer.text
