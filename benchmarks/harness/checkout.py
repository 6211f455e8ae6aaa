"""A bare checkout: its plugins are found where nothing is installed and nothing can be."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class _Checkout(metadata.Distribution):
    """What an installer would have written of this checkout's pyproject.toml."""

    def __init__(self, project: dict[str, Any]) -> None:
        self._project = project

    def read_text(self, filename: str) -> str | None:
        """The text of a metadata file, or None if there is none of that name."""
        if filename == "METADATA":
            return f"Metadata-Version: 2.1\nName: {self._project['name']}\nVersion: 0\n"
        if filename != "entry_points.txt":
            return None
        lines = []
        for group, entries in self._project.get("entry-points", {}).items():
            lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
        return "\n".join(lines)

    def locate_file(self, path: Any) -> Path:
        """Where a file of the checkout is."""
        return ROOT / path


class _Finder:
    """Offers the checkout to `importlib.metadata`; it imports nothing."""

    def __init__(self, found: _Checkout) -> None:
        self._found = found

    def find_spec(self, *_: object) -> None:
        """Nothing: modules are found on the path."""

    def find_distributions(self, *_: object) -> Iterable[metadata.Distribution]:
        """The checkout."""
        return [self._found]


def make_ready() -> bool:
    """Let the plugins of this checkout be found; False where flexvar is installed already."""
    try:
        metadata.distribution("flexvar")
        return False
    except metadata.PackageNotFoundError:
        pass
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    sys.path.append(str(ROOT / "plugins"))
    finder: Any = _Finder(_Checkout(project))
    sys.meta_path.append(finder)
    return True
