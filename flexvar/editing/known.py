"""Masks and known images -> the tokens that are given at each scale."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from flexvar.components import Tokenizer
from flexvar.editing.canvas import resize
from flexvar.errors import FlexvarError
from flexvar.generation.known import Known
from flexvar.layout import Grid, Layout

Rule = Literal["any", "area", "all"]
RULES: tuple[Rule, ...] = get_args(Rule)


def cells_to_generate(generate_BHW: Tensor, grid: Grid, rule: Rule) -> Tensor:
    """The mask (B,h,w) of the cells of a grid that are generated, of a mask (B,H,W) of pixels.

    rule: a cell is generated if ``any`` of its pixels is to be, if more than half of their
    ``area`` is, or only if ``all`` are. Where a cell's border falls within a pixel, the pixel
    belongs to both cells. A picture smaller than the grid has cells of one pixel.

    ``area`` is what VAR's editing does (a bilinear mask over 0.5) and the default of every task:
    under ``any`` a hole anywhere takes the coarsest scales with it, and with them all that the
    picture says about light and colour; under ``all`` cells at the edge of the hole stay that
    show half of what is to go.
    """
    if rule not in RULES:
        raise FlexvarError(f"rule: got {rule!r}; expected {', '.join(RULES)}.")
    mask = generate_BHW[:, None]
    size = grid.h, grid.w
    if rule == "any":
        return F.adaptive_max_pool2d(mask.float(), size)[:, 0] > 0
    if rule == "all":
        return F.adaptive_max_pool2d((~mask).float(), size)[:, 0] == 0
    return F.adaptive_avg_pool2d(mask.double(), size)[:, 0] > 0.5


def known_tokens(
    encode: Callable[[Tensor], tuple[Tensor, ...]],
    own_B3HW: Tensor,
    filled_B3HW: Tensor,
    generate_BHW: Tensor,
    layout: Layout,
    rule: Rule,
) -> Known:
    """The tokens that are given, and where they are kept, for pictures with a hole.

    encode: pictures in [0,1] -> token maps of the layout, on any device; the masks stay where
    ``generate_BHW`` is. own_B3HW: the pictures as they are;
    filled_B3HW: with the hole made up. A cell with no pixel of the hole has the token of the
    picture as it is; a cell that is kept though it shows some of the hole, that of the filled
    one, so that what is to go does not come back through it.
    """
    maps = encode(own_B3HW)
    keep = tuple(~cells_to_generate(generate_BHW, grid, rule) for grid in layout)
    touched = tuple(cells_to_generate(generate_BHW, grid, "any") for grid in layout)
    if any(bool((k & t).any()) for k, t in zip(keep, touched, strict=True)):
        filled = encode(filled_B3HW)
        maps = tuple(
            torch.where(t.to(own.device).view(*t.shape, *[1] * (own.ndim - 3)), other, own)
            for t, other, own in zip(touched, filled, maps, strict=True)
        )
    return Known(maps, keep)


def known_scales(maps: tuple[Tensor, ...], layout: Layout, start: int) -> Known:
    """The tokens that are given when the scales from ``start`` on are generated.

    maps: those of the scales before it, at least.
    """
    batch, parts = maps[0].shape[0], maps[0].shape[3:]
    given = tuple(
        maps[step]
        if step < start
        else torch.zeros(batch, *grid, *parts, dtype=torch.long, device=maps[0].device)
        for step, grid in enumerate(layout)
    )
    keep = tuple(
        torch.full((batch, *grid), step < start, dtype=torch.bool, device="cpu")
        for step, grid in enumerate(layout)
    )
    return Known(given, keep)


def encoder(
    tokenizer: Tokenizer, layout: Layout, device: torch.device, grid: Grid | None = None
) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """A function from pictures (B,3,H,W) in [0,1], of any size, to their token maps.

    They are resized to the size of ``grid``, the last one of the layout unless given, and
    encoded one by one: so each has the same tokens whatever its batch.
    """
    stride, grid = tokenizer.space.stride, grid or layout.last
    size = grid.h * stride, grid.w * stride

    @torch.inference_mode()
    def encode(image_B3HW: Tensor) -> tuple[Tensor, ...]:
        parts = [
            tokenizer.encode(resize(one.to(device), size) * 2 - 1, layout)
            for one in image_B3HW.split(1)
        ]
        return tuple(torch.cat(maps) for maps in zip(*parts, strict=True))

    return encode


@torch.inference_mode()
def check_scales_stand_alone(
    tokenizer: Tokenizer, maps: tuple[Tensor, ...], layout: Layout
) -> None:
    """Raise `FlexvarError` if a scale means nothing without the last grid, as in VAR."""
    first = tokenizer.fold(None, tokenizer.lookup(maps[0]), layout, 0)
    if tuple(first.shape[-2:]) != layout[0]:
        raise FlexvarError(
            "encode_at='own' takes a tokenizer whose scales are pictures of their own; this one "
            "adds its scales up at the last grid. Use encode_at='target'."
        )


def first_larger(layout: Layout, grid: Grid) -> int:
    """The first step of a layout whose grid is larger than ``grid`` in either side."""
    larger = [k for k, one in enumerate(layout) if one.h > grid.h or one.w > grid.w]
    return larger[0] if larger else len(layout)
