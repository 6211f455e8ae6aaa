"""What a suite is made of: options, cases, and what the report shows of its rows.

A suite is a module with three names::

    SUMMARY: str                                    # one line for `python -m benchmarks list`
    def cases(options: Options) -> list[Case]       # cheap: no model is built here
    def sections(rows) -> list[Section]             # rows as in the results file, newest per case

Each case runs in a process of its own, which calls ``cases`` again with the same options and
takes the one of that name; so both have to be functions of the options alone. A plugin adds a
suite by the hook ``flexvar_benchmarks``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from PIL import Image

from flexvar.config import override

FIRST_PARTY = ("transformer", "mamba")


def parse_backbone(text: str) -> tuple[str, dict[str, Any]]:
    """The name and the options of ``"delta attention_every=2"``; values are YAML.

    Raises `FlexvarError` for what is no ``key=value``.
    """
    name, *assignments = text.split()
    return name, override({}, assignments)


@dataclass(frozen=True, slots=True)
class Options:
    """What a user asks of a suite.

    quick: tiny and few cases. device: a torch device. seed: of weights and inputs. backbones:
    names to measure instead of the first party's, each with its options behind it. model: a
    checkpoint or a bundled name, for suites that measure a trained model; data: a set of pictures
    for it, by default that it was trained on.
    """

    quick: bool = False
    device: str = "cpu"
    seed: int = 0
    backbones: tuple[str, ...] | None = None
    model: str = "photos"
    data: str = "photos"

    @property
    def on_gpu(self) -> bool:
        """Whether the device is no CPU."""
        return not self.device.startswith("cpu")

    @property
    def chosen(self) -> tuple[str, ...]:
        """The backbones to measure."""
        return self.backbones or FIRST_PARTY

    def settings(self, **own: Any) -> dict[str, Any]:
        """A case's settings: its own, and device, seed and whether it is a quick one."""
        return {"device": self.device, "seed": self.seed, "quick": self.quick, **own}


@dataclass(frozen=True, slots=True)
class Case:
    """One row to be.

    name: unique in the suite, readable. settings: JSON, all that makes the row again; a row with
    the same settings is not measured twice. run: the figures, a JSON mapping. A timing in them
    is what `harness.measure.summary` gives. Its keys ``parity`` (what was compared, tolerance,
    greatest difference) and ``implementation`` (what really ran) become the row's own; ``work``,
    ``{"flops", "bytes", "of": name of a timing}``, is set against what the device can do.
    limit_s: seconds after which the case is stopped and has failed, unless the user's are fewer.
    Raises `Red` if a parity check fails.
    """

    suite: str
    name: str
    settings: Mapping[str, Any]
    run: Callable[[], dict[str, Any]]
    limit_s: float | None = None


class Red(Exception):  # noqa: N818 - the word for it
    """A parity check failed: a row without figures. parity: what was compared, if more is known."""

    def __init__(self, reason: str, parity: Mapping[str, Any] | None = None) -> None:
        super().__init__(reason)
        self.parity = dict(parity or {})


class Table(NamedTuple):
    """Column names, and rows of cells as they are shown."""

    header: Sequence[str]
    body: Sequence[Sequence[object]]


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report: a heading, a paragraph, captioned pictures, tables."""

    title: str
    text: str
    pictures: list[tuple[str, Image.Image]] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
