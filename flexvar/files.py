"""Files that appear whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flexvar.errors import FlexvarError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name to write to; the file gets its own when the block ends well.

    Raises `FlexvarError` where it cannot be written; the temporary file is removed.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise FlexvarError(f"Cannot write {path}: {error.strerror or error}.") from None
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write values as indented JSON."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any] | None:
    """What a JSON file holds, None if there is none.

    Raises `FlexvarError` for one that is broken.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise FlexvarError(
            f"{path} cannot be read ({error}); remove it, or name another directory."
        ) from None
