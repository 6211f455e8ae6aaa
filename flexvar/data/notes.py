"""What a source leaves out, or reads in a way that may surprise: counted, with an example."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass, field

from flexvar.text import printable

MOST_TEXT = 300


@dataclass(slots=True)
class Notes:
    """Reason -> how many, and the first of them; a reason reads on after a number.

    losses: the reasons that cost pictures or change labels, of which training warns too.
    """

    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)
    losses: set[str] = field(default_factory=set)

    def add(self, reason: str, example: object = "", *, count: int = 1, loss: bool = True) -> None:
        """Count something; ``example`` is what it is called."""
        if count < 1:
            return
        if reason not in self.counts:
            self.first[reason] = printable(example, most=MOST_TEXT)
        self.counts[reason] += count
        if loss:
            self.losses.add(reason)

    def lines(self, *, losses: bool = False) -> list[str]:
        """A sentence for each reason, or for each that costs something."""
        return [
            f"{count} {reason}" + (f", for example {self.first[reason]}" * bool(self.first[reason]))
            for reason, count in self.counts.items()
            if not losses or reason in self.losses
        ]

    def warn(self, source: str) -> None:
        """Warn of what costs something."""
        for line in self.lines(losses=True):
            warnings.warn(f"{printable(source, most=MOST_TEXT)}: {line}.", stacklevel=3)
