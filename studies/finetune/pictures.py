"""Three classes of 60 pictures that no bundled model knows, as folders: faces, food and flags.

    python -m studies.finetune.pictures pictures

They are drawings of the built-in set ``emoji``, 64 px, spread over all of their kind.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from flexvar.data.emoji import Drawing, drawings

COUNT, SIDE = 60, 64
CLASSES: dict[str, Callable[[Drawing], bool]] = {
    "face": lambda one: one.kind.startswith("face"),
    "food": lambda one: one.category == "food drink",
    "flag": lambda one: one.kind == "country flag",
}


def write(folder: Path) -> None:
    """FOLDER/CLASS/00.png to 59.png."""
    for name, belongs in CLASSES.items():
        found = [one for one in drawings() if belongs(one)]
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(COUNT):
            picture = found[number * len(found) // COUNT].picture()
            small = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            small.save(folder / name / f"{number:02}.png")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
