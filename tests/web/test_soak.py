"""Many clients at once: no error, flat memory, same seed same picture.

FLEXVAR_SOAK=500 asks for more requests than the usual few.
"""

from __future__ import annotations

import base64
import io
import json
import os
import random
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

REQUESTS = int(os.environ.get("FLEXVAR_SOAK", "48"))
CLIENTS = 8


def ask(address: str, body: dict[str, Any] | None = None, method: str = "POST") -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        address, data, {"Content-Type": "application/json"}, method=method
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.loads(answer.read())


def last_event(address: str, job: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{address}/api/jobs/{job}/events", timeout=120) as stream:
        lines = [line for line in stream.read().decode().splitlines() if line]
    return json.loads(lines[-1].removeprefix("data: "))


def memory() -> float:
    """Memory of this process in MB, server and clients together."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE") / 2**20


def picture(seed: int) -> str:
    noise = np.random.default_rng(seed).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(noise).save(data, format="PNG")
    return base64.b64encode(data.getvalue()).decode()


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc")
def test_many_clients_at_once(address: str) -> None:
    outcomes: dict[str, int] = {}
    pictures: dict[int, set[bytes]] = {}
    memories: list[float] = []
    lock, left = threading.Lock(), iter(range(REQUESTS))

    def client(number: int) -> None:
        source = random.Random(number)
        while True:
            with lock:
                one = next(left, None)
                memories.append(memory())
            if one is None:
                return
            body: dict[str, Any] = {"model": source.choice(["tiny", "other"]), "value": 1}
            kind = source.choice(["generate", "generate", "inpaint", "outpaint", "same"])
            path = "/api/generate"
            if kind == "same":
                seed = source.randrange(3)
                body |= {"model": "tiny", "seed": seed, "size": [16, 24]}
            elif kind == "generate":
                body |= {"size": source.choice([[16, 16], [24, 16], [32, 48]]), "num": 2}
            else:
                path = "/api/edit"
                body |= {"task": kind, "image": picture(one), "mask": picture(one)}
                body |= {"margins": [0, 4, 0, 4]} if kind == "outpaint" else {}
            try:
                job = ask(address + path, body)["job"]
            except urllib.error.HTTPError as error:
                with lock:
                    outcomes[str(error.code)] = outcomes.get(str(error.code), 0) + 1
                continue
            if one % 10 == 9:
                ask(f"{address}/api/jobs/{job}", method="DELETE")
            event = last_event(address, job)
            with lock:
                outcomes[event["event"]] = outcomes.get(event["event"], 0) + 1
            if kind == "same" and event["event"] == "done":
                url = address + event["pictures"][0]["url"]
                with urllib.request.urlopen(url, timeout=60) as answer:
                    found = Image.open(io.BytesIO(answer.read())).tobytes()
                with lock:
                    pictures.setdefault(seed, set()).add(found)

    threads = [threading.Thread(target=client, args=(n,)) for n in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(outcomes, f"memory {memories[min(50, len(memories) - 1)]:.0f} to {memories[-1]:.0f} MB")
    assert set(outcomes) <= {"done", "cancelled", "429"}, outcomes
    assert sum(outcomes.values()) == REQUESTS
    assert all(len(found) == 1 for found in pictures.values())
    if REQUESTS > 100:
        assert memories[-1] < 1.1 * memories[50] + 20
