"""How numbers are written in the report: percent or plain, with as many digits as mean something, signs that can be seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..evaluation.intervals import Difference

MISSING = "–"
"""Stands where nothing was measured."""

_MINUS = "\u2212"
_SPACE = "\u00a0"


@dataclass(frozen=True)
class NumberFormat:
    """How the values of a figure are written.

    Attributes:
        percent: whether they are shares. Differences between them are then in points.
        digits: behind the point.
        unit: follows a value, unless it is a share.
    """

    percent: bool = False
    digits: int = 3
    unit: str = ""

    def bare(self, value: float, sign: str = "") -> str:
        """A number without its unit; `sign` "+" shows that of positive ones, too."""
        if math.isnan(value):
            return MISSING
        scaled = round(100 * value if self.percent else value, self.digits)
        # Adding zero turns -0.0 into 0.0.
        return f"{scaled + 0.0:{sign},.{self.digits}f}".replace("-", _MINUS)

    def value(self, value: float | None) -> str:
        """A number with its unit."""
        if value is None or math.isnan(value):
            return MISSING
        unit = "%" if self.percent else self.unit
        return f"{self.bare(value)}{_SPACE}{unit}" if unit else self.bare(value)

    def interval(self, low: float, high: float, sign: str = "") -> str:
        """From where to where."""
        return f"{self.bare(low, sign)} to {self.bare(high, sign)}"

    def size(self, value: float) -> str:
        """The size of a difference, without its direction."""
        return f"{self.bare(abs(value))}{self._difference_unit}"

    def difference(self, value: float) -> str:
        """A difference with its direction."""
        return f"{self.bare(value, '+')}{self._difference_unit}"

    def size_interval(self, found: Difference) -> str:
        """The interval of a difference that is sure, both ends as sizes."""
        low, high = sorted((abs(found.low), abs(found.high)))
        return self.interval(low, high)

    def at_least(self, value: float) -> NumberFormat:
        """This form, with digits enough to tell a small number from zero."""
        scaled = abs(100 * value if self.percent else value)
        if scaled == 0 or math.isnan(scaled) or scaled >= 10**-self.digits:
            return self
        return NumberFormat(self.percent, min(-math.floor(math.log10(scaled)), 8), self.unit)

    @property
    def _difference_unit(self) -> str:
        unit = "points" if self.percent else self.unit
        return f"{_SPACE}{unit}" if unit else ""


def duration(seconds: float) -> str:
    """Seconds as people say them: `4.2 s`, `2 min 32 s`, `3 h 5 min`."""
    if seconds < 59.95:
        return f"{seconds:.1f}{_SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{_SPACE}min {rest}{_SPACE}s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours:,}{_SPACE}h {minutes}{_SPACE}min"


def capitalised(text: str) -> str:
    """A text that begins with a capital; the rest stays as it is written."""
    return text[:1].upper() + text[1:]
