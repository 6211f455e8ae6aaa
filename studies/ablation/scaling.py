"""Power laws: L = (a N)^b, fitted as a line through logarithms, with an interval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """L = (factor N)^exponent.

    low, high: interval of the exponent at 95 %, by Student's t with n - 2 degrees of freedom; it
    holds the scatter about the line, not that between seeds. correlation: of log L and log N.
    """

    factor: float
    exponent: float
    low: float
    high: float
    correlation: float
    points: int

    def __call__(self, size: float) -> float:
        """L at this size."""
        return (self.factor * size) ** self.exponent


def fit(sizes: Sequence[float], values: Sequence[float]) -> PowerLaw:
    """The power law through (size, value), least squares in log-log.

    Raises `ValueError` for less than three points, numbers that are not positive, or one size.
    """
    from scipy import stats

    if len(sizes) != len(values) or len(sizes) < 3:
        raise ValueError(f"A power law needs 3 points or more, got {len(sizes)}.")
    if min(*sizes, *values) <= 0 or len(set(sizes)) < 2:
        raise ValueError("A power law needs positive values and more than one size.")
    line = stats.linregress(np.log(sizes), np.log(values))
    half = float(stats.t.ppf(0.5 + LEVEL / 2, len(sizes) - 2)) * float(line.stderr)
    slope = float(line.slope)
    factor = float(np.exp(line.intercept / slope)) if slope else float("nan")
    return PowerLaw(factor, slope, slope - half, slope + half, float(line.rvalue), len(sizes))
