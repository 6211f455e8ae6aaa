"""Backbones of equal size: a search over width, and over depth where no width will do."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from benchmarks.harness.suite import parse_backbone
from flexvar.build import Choice
from flexvar.components import Facts
from flexvar.config import parse
from flexvar.errors import FlexvarError
from flexvar.plugin import default_registry

# Parameters may differ by this share; widths are multiples of this, heads this many.
TOLERANCE, STEP, HEADS = 0.03, 4, 4


def matched(backbone: str, depth: int, width: int) -> dict[str, Any]:
    """What a config says of a backbone that has the size of a transformer.

    backbone: a name, with options behind it if there are any. depth, width: of the transformer
    that sets the size. The depth is kept as long as some width is within 3 %.
    Raises `FlexvarError` if no width at any depth is.
    """
    return dict(_matched(backbone, depth, width))


@cache
def _matched(backbone: str, depth: int, width: int) -> dict[str, Any]:
    wanted = parameters("transformer", _spec("transformer", {}, depth, width))
    name, given = parse_backbone(backbone)
    best: tuple[float, dict[str, Any]] | None = None
    for tried in sorted(range(max(1, depth // 2), 2 * depth + 1), key=lambda d: abs(d - depth)):
        spec, count = _nearest(name, given, given.get("depth", tried), wanted, width)
        share = abs(count - wanted) / wanted
        if best is None or share < best[0]:
            best = (share, spec)
        if share <= TOLERANCE:
            return {"name": name, **spec}
    assert best is not None
    raise FlexvarError(
        f"--backbone {backbone}: no width and depth come within {TOLERANCE:.0%} of the "
        f"transformer's {wanted} parameters; the nearest, {best[1]}, is {best[0]:.1%} off."
    )


def parameters(name: str, options: dict[str, Any]) -> int:
    """How many weights a backbone has, read off shapes without making them."""
    cls = default_registry().load("backbone", name)
    config = parse(cls.Config, options, path="backbone")
    facts = Facts(64, 8, getattr(config, "width", 0), getattr(config, "head_dim", 0), 1)
    with torch.device("meta"):
        module = Choice(cls, config).build(facts)
    return sum(weight.numel() for weight in module.parameters())


def _nearest(
    name: str, given: dict[str, Any], depth: int, wanted: int, width: int
) -> tuple[dict[str, Any], int]:
    """The options whose width comes nearest; the count rises with the width."""
    found: dict[int, int] = {}

    def count(times: int) -> int:
        if times not in found:
            found[times] = parameters(name, _spec(name, given, depth, times * STEP))
        return found[times]

    low, high = max(1, width // (3 * STEP)), 2 * width // STEP
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= wanted else (low, middle)
    times = min((low, high), key=lambda t: abs(count(t) - wanted))
    return _spec(name, given, depth, times * STEP), count(times)


def _spec(name: str, given: dict[str, Any], depth: int, width: int) -> dict[str, Any]:
    fields = default_registry().load("backbone", name).Config.model_fields
    sizes = {"depth": depth, "width": width, "num_heads": HEADS}
    return {key: value for key, value in sizes.items() if key in fields} | given
