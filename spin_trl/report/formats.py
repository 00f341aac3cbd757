"""Number formats of the report: percent or plain, with only meaningful digits and clearly visible signs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..evaluation.intervals import Difference

MISSING = "–"
"""Placeholder for a figure that was not measured."""

_MINUS = "\u2212"
_SPACE = "\u00a0"


@dataclass(frozen=True)
class NumberFormat:
    """Format of the values of a figure.

    Attributes:
        percent: whether the values are shares, shown in percent. Differences between them are then in percentage points.
        digits: number of decimal places.
        unit: unit shown after a value, unless it is a share.
    """

    percent: bool = False
    digits: int = 3
    unit: str = ""

    def bare(self, value: float, sign: str = "") -> str:
        """Format a number without its unit; with `sign` "+", positive numbers also get a sign."""
        if math.isnan(value):
            return MISSING
        scaled = round(100 * value if self.percent else value, self.digits)
        # Adding zero turns -0.0 into 0.0.
        return f"{scaled + 0.0:{sign},.{self.digits}f}".replace("-", _MINUS)

    def value(self, value: float | None) -> str:
        """Format a number with its unit."""
        if value is None or math.isnan(value):
            return MISSING
        unit = "%" if self.percent else self.unit
        return f"{self.bare(value)}{_SPACE}{unit}" if unit else self.bare(value)

    def interval(self, low: float, high: float, sign: str = "") -> str:
        """Format the ends of an interval."""
        return f"{self.bare(low, sign)} to {self.bare(high, sign)}"

    def size(self, value: float) -> str:
        """Format the size of a difference, without its sign."""
        return f"{self.bare(abs(value))}{self._difference_unit}"

    def difference(self, value: float) -> str:
        """Format a difference with its sign."""
        return f"{self.bare(value, '+')}{self._difference_unit}"

    def size_interval(self, found: Difference) -> str:
        """Format the interval of a difference whose sign is certain, with both ends as sizes."""
        low, high = sorted((abs(found.low), abs(found.high)))
        return self.interval(low, high)

    def at_least(self, value: float) -> NumberFormat:
        """Return this format with enough digits to tell a small number from zero."""
        scaled = abs(100 * value if self.percent else value)
        if scaled == 0 or math.isnan(scaled) or scaled >= 10**-self.digits:
            return self
        return NumberFormat(self.percent, min(-math.floor(math.log10(scaled)), 8), self.unit)

    @property
    def _difference_unit(self) -> str:
        unit = "points" if self.percent else self.unit
        return f"{_SPACE}{unit}" if unit else ""


def duration(seconds: float) -> str:
    """Format seconds for people: `4.2 s`, `2 min 32 s`, `3 h 5 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f}{_SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{_SPACE}min {rest}{_SPACE}s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,}{_SPACE}h {minutes}{_SPACE}min"


def capitalised(text: str) -> str:
    """Capitalise the first letter of a text and leave the rest unchanged."""
    return text[:1].upper() + text[1:]
