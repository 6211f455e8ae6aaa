"""Published ideas as plugins of under a hundred lines each: proof that the interfaces reach."""

from __future__ import annotations

from collections.abc import Iterable

from flexvar.plugin import Component, hookimpl

_HERE = "flexvar_zoo"


@hookimpl
def flexvar_backbones() -> Iterable[Component]:
    """Backbones of other papers."""
    return ()
