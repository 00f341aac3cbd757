"""Compare the last numbers of the responses, for tasks whose answer comes last."""

from __future__ import annotations

import re
from decimal import Decimal

from ..scoring import Score, compared

_NUMBER_IN_TEXT = re.compile(r"(?<![\d.])(?:(?<!\w)-)?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")  # 3-4 are two, none below 0


def last_number_in(response: str) -> Decimal | None:
    """Return the last number of a response, ignoring commas between digits; None without one."""
    found = [match.group() for match in _NUMBER_IN_TEXT.finditer(response)]
    return Decimal(found[-1].replace(",", "")) if found else None


def last_number(prompt: str, real: str, generated: str) -> Score:
    """Return 1 if the last numbers of both responses are equal."""
    return compared(last_number_in(real), last_number_in(generated))
