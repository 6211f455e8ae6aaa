"""The sets ``emoji`` and ``emoji-colors``: drawings with names and captions, in the package.

The shard and where it comes from: ``studies/emoji/make_shard.py``; licences beside the shard.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from PIL import Image

from flexvar.data.colors import HUES, recolored
from flexvar.data.config import DataConfig, Split
from flexvar.data.sources import Defaults, choose_classes, held_out, no_validation
from flexvar.errors import FlexvarError
from flexvar.images import open_image

SHARD = "sets/emoji.tar"
USUAL_VAL_FRACTION = 0.1
# A flag in other colours is another flag, or none.
NEVER_RECOLORED = "flags"
# How often a drawing in its own colour is among those in all colours.
OWN = 3


@dataclass(frozen=True, slots=True)
class Drawing:
    """One emoji: its name, what else it is called, and the file.

    captions: the name first. color: what rules the picture, one of `HUES`, or None.
    """

    name: str
    captions: tuple[str, ...]
    category: str
    kind: str
    emoji: str
    color: str | None
    data: bytes

    @property
    def other_colors(self) -> tuple[str, ...]:
        """The colours that the drawing can be turned into."""
        if self.color is None or self.category == NEVER_RECOLORED:
            return ()
        return tuple(color for color in HUES if color != self.color)

    def picture(self, color: str | None = None) -> Image.Image:
        """The drawing in RGB, 128 px, in its own colour or in another one."""
        image = open_image(io.BytesIO(self.data), name=self.name)
        return image if color is None else recolored(image, color)


@cache
def drawings() -> tuple[Drawing, ...]:
    """All emoji of the shard, in the order of Unicode's charts."""
    file = resources.files("flexvar.data") / SHARD
    found: list[Drawing] = []
    with tarfile.open(fileobj=io.BytesIO(file.read_bytes())) as shard:
        data = b""
        for member in shard:
            part = shard.extractfile(member)
            if part is None:
                continue
            if not member.name.endswith(".json"):
                data = part.read()
                continue
            about = json.loads(part.read())
            found.append(
                Drawing(
                    name=about["label"],
                    captions=tuple(about["captions"]),
                    category=about["category"],
                    kind=about["kind"],
                    emoji=about["emoji"],
                    color=about["color"],
                    data=data,
                )
            )
    return tuple(found)


def colored(color: str | None, name: str) -> str:
    """What a drawing in a colour is called; in its own, by its name alone."""
    return name if color is None else f"{color} {name}"


class Emoji:
    """One class and one picture per emoji; ``val_fraction`` of the names are held out.

    A category among the ``classes`` of a config, "animals nature" say, stands for all its names.
    """

    defaults = Defaults(resize=1, flip=False)

    def __init__(self, config: DataConfig) -> None:
        self.config = config
        fraction = config.val_fraction
        self.fraction = USUAL_VAL_FRACTION if fraction is None else fraction
        self.class_names = choose_classes(
            [one.name for one in drawings()], _with_categories(config.classes)
        )

    def _variants(self, drawing: Drawing) -> tuple[str | None, ...]:
        """The colours in which a drawing is in the set; None is its own."""
        del drawing
        return (None,)

    def _held_out(self, drawing: Drawing, color: str | None) -> bool:
        return held_out(colored(color, drawing.name), self.fraction)

    def pictures(self, split: Split) -> Drawings:
        """The pictures of a split. Raises `FlexvarError` where there are none."""
        number = {name: label for label, name in enumerate(self.class_names)}
        chosen = [
            (drawing, color, number[drawing.name])
            for drawing in drawings()
            if drawing.name in number
            for color in self._variants(drawing)
            if self._held_out(drawing, color) == (split == "val")
        ]
        if split == "val" and not chosen:
            raise no_validation(self.config, f"val_fraction is {self.fraction}")
        if not chosen:
            raise FlexvarError(
                "classes: all that are named are held out of training; name more, or give "
                "val_fraction: 0."
            )
        return Drawings(chosen)


def _with_categories(wanted: Sequence[str] | None) -> tuple[str, ...] | None:
    """Names, with every category replaced by those of its drawings."""
    if wanted is None:
        return None
    names: dict[str, None] = {}
    for word in wanted:
        inside = [one.name for one in drawings() if one.category == word]
        names |= dict.fromkeys(inside or [word])
    return tuple(names)


class ColoredEmoji(Emoji):
    """Every emoji as it is and in all colours that it can be turned into.

    A drawing is of the same class in all of them; its captions tell them apart. In its own colour
    it is there `OWN` times, or training would see those least that have no other. ``val_fraction``
    of the pairs of a colour and a name are held out: the name in other colours, and the colour of
    other things, are in training.
    """

    def _variants(self, drawing: Drawing) -> tuple[str | None, ...]:
        return (*[None] * OWN, *drawing.other_colors)

    def _held_out(self, drawing: Drawing, color: str | None) -> bool:
        return color is not None and super()._held_out(drawing, color)


class Drawings:
    """Emoji in their own or other colours, with what they are called."""

    repeats = 1

    def __init__(self, chosen: Sequence[tuple[Drawing, str | None, int]]) -> None:
        self.chosen = chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def name(self, index: int) -> str:
        """What the picture is called in messages."""
        drawing, color, _ = self.chosen[index]
        return colored(color, drawing.name)

    def label(self, index: int) -> int:
        """The class number of a picture."""
        return self.chosen[index][2]

    def captions(self, index: int) -> tuple[str, ...]:
        """What a picture may be called, its name first; in another colour, always with that.

        One of them is drawn at random in training, and half of the time that should be its name:
        it stands there as often as all others together.
        """
        drawing, color, _ = self.chosen[index]
        name, *others = drawing.captions
        if color is None:
            others += [f"{drawing.color} {name}"] if drawing.other_colors else []
        else:
            name, others = colored(color, name), [colored(color, other) for other in others]
        return (*[name] * max(1, len(others)), *others)

    def open(self, index: int, enough: tuple[int, int]) -> Image.Image:
        """The picture at its own size."""
        del enough
        drawing, color, _ = self.chosen[index]
        return drawing.picture(color)

    def state(self) -> str:
        """A digest of the pictures' files, with their colours and classes."""
        digest = hashlib.sha256()
        for drawing, color, label in self.chosen:
            digest.update(drawing.data + f"{color} {label}".encode())
        return digest.hexdigest()
