"""What `flexvar pull` has to know of a released model: its files on the hub, and what they become.

A whole entry, for a model of one's own beside its converter::

    ACME_XL = ReleasedModel(
        files=(ReleasedFile("model", "acme/models", "xl.pth", size=1_250_000_000),),
        license="MIT",
        source="github.com/acme/models, README",
    )

and in the plugin's manifest::

    @flexvar.hookimpl
    def flexvar_released():
        yield flexvar.Component(name="acme-xl", target="acme.known:ACME_XL", summary="256 px")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flexvar.components.converter import Part


@dataclass(frozen=True, slots=True)
class ReleasedFile:
    """One file in a repository of the hub.

    part: what is in it; a file of both, or one of several shards, is given as ``model``. size:
    bytes, where they are published. about: bytes as estimated from the number of weights, where
    they are not. sha256: 64 hexadecimal digits, where they are published; else the hub's own is
    checked.
    """

    part: Part
    repository: str
    name: str
    size: int | None = None
    about: int | None = None
    sha256: str | None = None
    revision: str = "main"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedModel:
    """A model that others released, and how it becomes a checkpoint.

    license: of the weights, as their owners say. source: the public text that names the files.
    class_names: gives one name per class; called when the model is converted. converter, options:
    as of `flexvar convert`, where the files alone do not say it. config: gives what ``config.json``
    of the checkpoint will hold, so that `flexvar show` can tell of a model that is not here.
    """

    files: tuple[ReleasedFile, ...]
    license: str
    source: str
    class_names: Callable[[], Sequence[str]] | None = None
    converter: str | None = None
    options: tuple[str, ...] = ()
    config: Callable[[], Mapping[str, Any]] | None = None
