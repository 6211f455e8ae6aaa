"""What the invariants share: violations, tolerances, test layouts, weights, traces of state."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from flexvar.layout import Grid, Layout

# fp32, as a share of the largest logit: the same sums in another order.
STEP_TOLERANCE = 1e-4
# fp32, same shapes: nothing but the changed numbers differs, and they must not arrive.
LEAK_TOLERANCE = 1e-5
# bf16 against fp32, root mean square of the difference over that of the values. bf16 has 8 bits,
# 0.4 % per operation; the first party's small networks come to 0.9 %, its tokenizers to 2.3 %.
BF16_TOLERANCE = 0.05

# Square, rectangular, 1xn and nx1, odd, one scale alone, a side that stands still, a long one.
LAYOUTS = (
    Layout.of(1, 2, 4),
    Layout.of(1),
    Layout.of(1, (2, 3), (4, 6)),
    Layout.of(1, (1, 3), (1, 7)),
    Layout.of(1, (4, 1), (9, 1)),
    Layout.of(1, 3, 5, 7),
    Layout.of(1, (1, 2), (3, 2), (3, 5), (8, 5)),
    Layout.of(1, (2, 35)),
)


class ContractViolation(AssertionError):  # noqa: N818 - it is what it says
    """A component breaks an invariant; the message says which, where, and by how much."""


def demand(condition: bool, message: str) -> None:
    """Raise `ContractViolation` with the message unless the condition holds."""
    if not condition:
        raise ContractViolation(message)


def demand_members(part: object, protocol: type) -> None:
    """Demand that a part has every method and attribute that its protocol names."""
    names = {*vars(protocol), *protocol.__annotations__}
    wanted = sorted(n for n in names if not n.startswith("_") and not hasattr(part, n))
    demand(not wanted, f"it lacks {', '.join(wanted)}, of flexvar.components.{protocol.__name__}")


def equal_within(
    found: Tensor,
    expected: Tensor,
    tolerance: float,
    what: str,
    *,
    scale: float | None = None,
    spare: float = 0.0,
) -> None:
    """Demand that two tensors differ by at most ``tolerance`` times ``scale``.

    scale: the largest of the expected numbers unless given. spare: share of the tokens of logits
    (B,L,V) that may differ by more.
    """
    demand(
        found.shape == expected.shape,
        f"{what}: shape {tuple(found.shape)}, expected {tuple(expected.shape)}",
    )
    demand(bool(found.isfinite().all()), f"{what}: not all numbers are finite")
    if not expected.numel():
        return
    if scale is None:
        scale = float(expected.abs().max())
    apart = (found - expected).abs()
    worst = apart.max()
    if spare:
        # All tokens but the spare ones, which differ the most.
        ordered = apart.flatten(2).amax(dim=-1).flatten().sort().values
        worst = ordered[max(0, len(ordered) - 1 - math.ceil(spare * len(ordered)))]
    share = float(worst) / max(scale, 1e-12)
    demand(
        share <= tolerance,
        f"{what}: differ by {share:.2g} of the largest value ({scale:.3g}), at most "
        f"{tolerance:g} is allowed",
    )


def alike(found: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """Demand that the root mean square of a difference is a small share of the values'."""
    demand(bool(found.isfinite().all()), f"{what}: not all numbers are finite")
    size = float(expected.float().square().mean().sqrt())
    share = float((found.float() - expected.float()).square().mean().sqrt()) / max(size, 1e-12)
    demand(
        share <= tolerance,
        f"{what}: differ by {share:.2g} of the root mean square ({size:.3g}), at most "
        f"{tolerance:g} is allowed",
    )


def random_layouts(count: int) -> tuple[Layout, ...]:
    """The same ``count`` layouts every time: 1 to 6 scales, sides up to 8, no two alike."""
    source = random.Random(0)
    found: dict[Layout, None] = {}
    while len(found) < count:
        grids = [Grid(1, 1)]
        for _ in range(source.randrange(6)):
            h, w = grids[-1]
            grids.append(Grid(min(8, h + source.randrange(4)), min(8, w + source.randrange(4))))
        found[Layout(tuple(dict.fromkeys(grids)))] = None
    return tuple(found)


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Move all weights by about as much as a linear layer's usual weights, in place.

    Moved rather than replaced, so that what starts in a range it needs - norms at 1, decays -
    stays near it.
    """
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point():
                fan_in = parameter[0].numel() if parameter.ndim > 1 else 100
                noise = torch.randn(parameter.shape, generator=source)
                parameter.add_(noise * min(max(fan_in**-0.5, 0.02), 0.5))


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Inside, the process-wide random sources are seeded; after it, they are as before."""
    before = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])


@contextmanager
def unchanged(**parts: object) -> Iterator[None]:
    """Demand that no attribute of the given parts is another after the block than before."""
    before = {name: _attributes(part) for name, part in parts.items()}
    yield
    for name, part in parts.items():
        old, new = before[name], _attributes(part)
        moved = [key for key in new.keys() | old.keys() if new.get(key) != old.get(key)]
        demand(
            not moved,
            f"the {name} keeps state between calls: a call changed "
            f"{', '.join(sorted(moved)[:5])}; what one generation needs belongs in the state "
            "object that start returns",
        )


def _attributes(part: object) -> dict[str, Any]:
    if not isinstance(part, nn.Module):
        return {name: _frozen(value, 4) for name, value in vars(part).items()}
    return {
        f"{path}.{name}".lstrip("."): _frozen(value, 4)
        for path, module in part.named_modules()
        for name, value in vars(module).items()
        if name != "_modules"
    }


def _frozen(value: Any, depth: int) -> Any:
    """Something that compares equal as long as the value stays as it is."""
    if isinstance(value, Tensor):
        numbers = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        return value.dtype, tuple(value.shape), hash(numbers.numpy().tobytes())
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return value
    if isinstance(value, type | nn.Module) or callable(value) or not depth:
        return id(value)
    if isinstance(value, Mapping):
        return [(_frozen(k, depth - 1), _frozen(v, depth - 1)) for k, v in value.items()]
    if isinstance(value, list | tuple | set | frozenset):
        return [_frozen(one, depth - 1) for one in value]
    if is_dataclass(value):
        # Its fields, not what it may have worked out from them.
        return type(value), [_frozen(getattr(value, f.name), depth - 1) for f in fields(value)]
    if hasattr(value, "__dict__"):
        return type(value), _frozen(vars(value), depth - 1)
    return id(value)
