"""The record by which a plugin announces a component."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

# The parts of a model, and what else a plugin can offer.
Kind = Literal[
    "tokenizer", "backbone", "position", "schedule", "conditioner", "sampler", "objective"
]
KINDS: tuple[Kind, ...] = get_args(Kind)
Offer = Kind | Literal["loss", "converter", "released", "benchmark"]
# What is on offer -> the hook that yields it.
HOOKS: dict[Offer, str] = {
    **{kind: f"flexvar_{kind}s" for kind in KINDS},
    "loss": "flexvar_losses",
    "converter": "flexvar_converters",
    "released": "flexvar_released",
    "benchmark": "flexvar_benchmarks",
}
OFFERS: tuple[Offer, ...] = tuple(HOOKS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One component a plugin offers.

    name: what a config says.
    target: ``"module:Class"``, imported when the component is first built; of a benchmark the
    module alone, of a released model its `flexvar.components.ReleasedModel`.
    summary: one line for ``flexvar plugins``.
    requires: import names of packages that have to be there, for example ``("mamba_ssm",)``.
    """

    name: str
    target: str
    summary: str = ""
    requires: tuple[str, ...] = ()
