"""How the tests ask the playground's server."""

from __future__ import annotations

import json
from typing import Any

from starlette.testclient import TestClient

Event = dict[str, Any]


def follow(client: TestClient, job: str) -> list[Event]:
    """All events of a job, to its end."""
    text = client.get(f"/api/jobs/{job}/events").text
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ")]


def run(client: TestClient, address: str, body: dict[str, Any]) -> list[Event]:
    """The events of a request that is accepted."""
    answer = client.post(address, json=body)
    assert answer.status_code == 202, answer.text
    return follow(client, answer.json()["job"])
