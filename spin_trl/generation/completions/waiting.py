"""How long to wait, and how often to try: limits of a pool, exponential backoff, and `Retry-After`."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from ...errors import RecipeError


@dataclass(frozen=True)
class Patience:
    """Limits of a pool of endpoints. Times are in seconds.

    Attributes:
        request: maximum time of one attempt, from sending the request to the last byte of its answer.
        connect: maximum time to connect.
        attempts: attempts of a request that reach a server and fail before it is given up. Attempts at a server that is busy
            (429) don't count.
        failures: failures in a row after which an endpoint is taken out.
        probe: time after which an endpoint that was taken out is asked again; it doubles up to `longest`.
        gone: time without any endpoint after which the pool gives up.
        first: average of the first backoff; it doubles with every attempt, up to `longest`.
        longest: maximum of a backoff, and of a wait that a server asks for with `Retry-After`.
        largest_answer: maximum size of an answer, in bytes.
    """

    request: float = 600.0
    connect: float = 10.0
    attempts: int = 5
    failures: int = 3
    probe: float = 5.0
    gone: float = 300.0
    first: float = 0.5
    longest: float = 60.0
    largest_answer: int = 64 * 2**20

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not (math.isfinite(value) and value > 0):
                raise RecipeError(f"`{field.name}` is {value}; it must be a positive number.")

    def backoff(self, attempt: int, chance: random.Random) -> float:
        """Return a random time to wait before another attempt, so that requests that failed together don't return together.

        Args:
            attempt: number of attempts that have failed, from 1.
            chance: source of randomness.
        """
        average = min(self.first * 2.0 ** min(attempt - 1, 60), self.longest / 1.5)
        return average * chance.uniform(0.5, 1.5)

    def probing(self, attempt: int, chance: random.Random) -> float:
        """Return the time until an endpoint that was taken out is asked again, for the nth time (from 1)."""
        return min(self.probe * 2.0 ** min(attempt - 1, 60), max(self.longest, self.probe)) * chance.uniform(0.9, 1.1)


def retry_after(header: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds that a `Retry-After` header asks to wait; None if there is none or it can't be read.

    Args:
        header: seconds, or an HTTP date.
        now: current time with its time zone; None: the system's.
    """
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max((date - (now or datetime.now(UTC))).total_seconds(), 0.0)
