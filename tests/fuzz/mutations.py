"""Seeded changes of files and values, and what holds whoever reads them to an answer in time.

FLEXVAR_FUZZ=10 tries ten times as many.
"""

import json
import os
import random
import time

import pytest

from flexvar import FlexvarError
from flexvar.errors import LONGEST_MESSAGE

TIMES = float(os.environ.get("FLEXVAR_FUZZ", "1"))
SECONDS = 12 * max(1.0, TIMES)  # of one format
SLOWEST = 20.0  # of one file

ODD = [
    None, True, -1, 0, 2**31, 2**63, 2**64, 10**400, 1e308, -0.0, float("nan"), float("inf"), "",
    "x" * 3000, "\ud800", "\x1b[2J", "../..", [], {}, [[]], {"name": {}}, [1] * 3000, "3e-4",
]  # fmt: skip


def try_all(count, make, read):
    """Tried, read and refused; fails with the seed of the first that does neither in time."""
    tried = taken = 0
    start = time.monotonic()
    for seed in range(int(count * TIMES)):
        if time.monotonic() - start > SECONDS:
            break
        case = make(random.Random(seed))
        began = time.monotonic()
        try:
            read(case)
            taken += 1
        except FlexvarError as error:
            assert len(str(error)) <= LONGEST_MESSAGE + 100, seed  # noqa: PT017
            str(error).encode("utf-8")
        except Exception as error:
            pytest.fail(f"seed {seed}: {type(error).__name__}: {str(error)[:500]}")
        assert time.monotonic() - began < SLOWEST, f"seed {seed} takes too long"
        tried += 1
    print(f"tried {tried}, read {taken}, refused {tried - taken}")
    assert tried >= 10


def bytes_changed(data, random):
    """Bits flipped, bytes set, pieces cut, doubled or moved."""
    data = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 5, 30))):
        at = random.randrange(max(1, min(len(data), random.choice((64, 2000, 10**9)))))
        kind = random.randrange(6)
        if not data:
            break
        if kind == 0:
            data[at % len(data)] ^= 1 << random.randrange(8)
        elif kind == 1:
            data[at % len(data)] = random.choice((0, 255, 128, 46, 40, 125, 34))
        elif kind == 2:
            del data[at : at + random.choice((1, 8, 500))]
        elif kind == 3:
            data = data[: random.randrange(len(data) + 1)]
        elif kind == 4:
            piece = data[at : at + 50]
            data[at:at] = piece
        else:
            data[at:at] = bytes(random.randrange(256) for _ in range(random.choice((1, 4, 9))))
    return bytes(data)


def values_changed(data, random):
    """A tree of JSON with values replaced, removed, renamed or nested."""
    data = json.loads(json.dumps(data))
    for _ in range(random.choice((1, 1, 2, 4))):
        node = data
        for _ in range(random.randrange(6)):
            inner = list(node.values()) if isinstance(node, dict) else node
            inner = [item for item in inner if isinstance(item, dict | list) and item]
            if not inner:
                break
            node = random.choice(inner)
        key = random.choice(list(node)) if isinstance(node, dict) else random.randrange(len(node))
        kind = random.randrange(5)
        if kind <= 2:
            node[key] = random.choice(ODD)
        elif kind == 3 and isinstance(node, dict):
            node[random.choice(("", "name", "x" * 500, "depth", "\ud800"))] = node.pop(key)
        else:
            deep = node[key]
            for _ in range(random.choice((1, 3, 60))):
                deep = random.choice(([deep], {"name": deep}))
            node[key] = deep
        if not data:
            break
    return data
