"""Published ideas as plugins of under a hundred lines each: proof that the interfaces reach."""

from __future__ import annotations

from collections.abc import Iterable

from flexvar.plugin import Component, hookimpl

_HERE = "flexvar_zoo"


@hookimpl
def flexvar_backbones() -> Iterable[Component]:
    """Backbones of other papers."""
    yield Component(
        name="markov",
        target=f"{_HERE}.backbones.markov:MarkovBackbone",
        summary="HMAR, Markov-VAR: each scale sees the one before it alone; nothing grows",
    )
    yield Component(
        name="mvar",
        target=f"{_HERE}.backbones.mvar:MvarBackbone",
        summary="M-VAR: attention inside a scale, Mamba-2 across scales",
    )
    yield Component(
        name="delta",
        target=f"{_HERE}.backbones.delta:DeltaBackbone",
        summary="Gated DeltaNet: the gated delta rule, with attention in every n-th block or none",
    )
