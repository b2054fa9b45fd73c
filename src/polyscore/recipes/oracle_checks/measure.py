"""One measured number of an acceptance check, beside what it should be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import SupportsFloat

__all__ = ["Measure", "between", "near"]


@dataclass(frozen=True)
class Measure:
    """A measured number: `check` names the check, `what` the quantity; it is met between `low` and `high`."""

    check: str
    what: str
    expected: float
    measured: float
    low: float
    high: float

    @property
    def deviation(self) -> float:
        """Measured minus expected."""
        return self.measured - self.expected

    @property
    def met(self) -> bool:
        """Whether the number lies within the bounds (nan does not)."""
        return math.isfinite(self.measured) and self.low <= self.measured <= self.high


def near(check: str, what: str, expected: float, measured: SupportsFloat, tolerance: float) -> Measure:
    """A number that should be `expected` to within `tolerance`."""
    return Measure(check, what, expected, float(measured), expected - tolerance, expected + tolerance)


def between(check: str, what: str, expected: float, measured: SupportsFloat, low: float = -math.inf, high: float = math.inf) -> Measure:
    """A number that should lie between `low` and `high`; `expected` is where the reference found it."""
    return Measure(check, what, expected, float(measured), low, high)
