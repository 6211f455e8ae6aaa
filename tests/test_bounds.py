"""What is installed to try the lowest versions is what pyproject.toml says they are."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def version(text):
    """A version as numbers, without zeros at its end: 0.8 is 0.8.0."""
    numbers = [int(part) for part in text.split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return numbers


def test_every_lower_bound_is_pinned_as_it_is_declared():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    tried = [*project["dependencies"]]
    for extra in ("train", "data", "lora", "bench", "web"):
        tried += extras[extra]
    tried += [one for one in extras["dev"] if one.startswith(("httpx", "pytest>", "hypothesis"))]
    bounds = dict(
        re.fullmatch(r"([\w.-]+)>=([\d.]+)", one).groups() for one in tried if ">=" in one
    )
    torch = re.search(r"LOWEST_TORCH \?= ([\d.]+)", (ROOT / "Makefile").read_text("utf-8"))[1]
    pins = {"torch": torch}
    for line in (ROOT / "constraints-lowest.txt").read_text("utf-8").splitlines():
        if not line.startswith("#"):
            name, _, pinned = line.partition("==")
            pins[name] = pinned
    for name, bound in bounds.items():
        assert version(pins.pop(name)) == version(bound), name
    assert pins == {}
