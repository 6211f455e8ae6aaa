"""What a position embedding has to do by itself."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from flexvar.components import Facts, PositionEmbedding
from flexvar.contract.measure import (
    LAYOUTS,
    ContractViolation,
    demand,
    demand_members,
    equal_within,
    global_seed,
    randomise,
    unchanged,
)
from flexvar.contract.variant import Variant
from flexvar.errors import FlexvarError
from flexvar.layout import Grid, Layout

FACTS = Facts(vocab_size=50, code_dim=8, width=64, head_dim=32, num_classes=5)


def position_of(variant: Variant) -> PositionEmbedding:
    """The position embedding with weights of a seed."""
    with global_seed(0):
        position = variant.build(FACTS)
    demand(isinstance(position, nn.Module), "it is no torch.nn.Module")
    demand_members(position, PositionEmbedding)
    randomise(position)
    return cast(PositionEmbedding, position.eval())


@torch.no_grad()
def positions_tell_cells_apart(variant: Variant) -> None:
    """It gives what it says it provides, of the right shape and finite, the same every time, and
    something else for every cell of a grid.
    """
    position = position_of(variant)
    demand(bool(position.provides), "provides is empty; it is {'add'}, {'rotate'} or both")
    for layout in LAYOUTS if position.layouts is None else position.layouts:
        with unchanged(position=position):
            found = position.forward(layout)
        again = position.forward(layout)
        tensors = []
        for key, one, same, most in (
            ("add", found.add_LD, again.add_LD, FACTS.width),
            ("rotate", found.rotate_LR, again.rotate_LR, FACTS.head_dim // 2),
        ):
            where = f"layout {layout}: {key}_L{'D' if key == 'add' else 'R'}"
            said = "in" if key in position.provides else "not in"
            demand(
                (one is not None) == (key in position.provides),
                f"{where} is {'None' if one is None else 'there'}, but {key!r} is {said} provides",
            )
            if one is None or same is None:
                continue
            shape = tuple(one.shape)
            fits = shape[1:] == (most,) if key == "add" else 1 <= shape[-1] <= most
            demand(
                len(shape) == 2 and shape[0] == layout.tokens and fits,
                f"{where} has shape {shape}, expected ({layout.tokens}, {most})",
            )
            equal_within(same, one, 0.0, f"{where} of two calls")
            tensors.append(one)
        both = torch.cat(tensors, dim=1)
        for grid, part in zip(layout, layout.slices, strict=True):
            cells = both[part]
            apart = torch.cdist(cells, cells, compute_mode="donot_use_mm_for_euclid_dist")
            apart.fill_diagonal_(float("inf"))
            nearest = float(apart.min())
            demand(nearest > 1e-6, f"layout {layout}: two cells of {grid} have the same position")


@torch.no_grad()
def unknown_layouts_are_refused(variant: Variant) -> None:
    """A position embedding that names its layouts raises a `FlexvarError` for strange ones."""
    position = position_of(variant)
    for layout in position.layouts or ():
        layout.check_for_model()
        h, w = layout.last
        strange = Layout((*layout, Grid(h + 3, w + 2)))
        try:
            position.forward(strange)
        except FlexvarError:
            continue
        raise ContractViolation(f"it names its layouts, yet takes the layout {strange}")
