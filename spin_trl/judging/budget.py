"""The caps on requests and tokens, which a request reserves before it is sent."""

from __future__ import annotations

import math
from dataclasses import dataclass

BYTES_PER_TOKEN = 3
"""Bytes of text that one token has at least, on average, where the endpoint does not count tokens."""


def estimated_tokens(*texts: bytes) -> int:
    """Return an estimate of the tokens of texts, which is rather too high."""
    return sum(math.ceil(len(text) / BYTES_PER_TOKEN) for text in texts)


@dataclass
class Budget:
    """What may still be spent.

    Attributes:
        requests: requests.
        tokens: tokens of requests and replies together.
        ended_by: setting whose cap a request would have exceeded; None: none.
        reserved: requests that are in progress.
    """

    requests: int
    tokens: int
    ended_by: str | None = None
    reserved: int = 0

    def reserve(self, tokens: int) -> bool:
        """Reserve one request with this many tokens. Return whether it may be sent.

        If not, and `ended_by` is None, it may be possible when a request in progress has been settled. Otherwise no further
        request may be sent.

        Args:
            tokens: the most that it can take, as far as can be told.
        """
        if self.ended_by is not None:
            return False
        if self.requests >= 1 and self.tokens >= tokens:
            self.requests -= 1
            self.tokens -= tokens
            self.reserved += 1
            return True
        if not self.reserved:
            self.ended_by = "judge_max_requests" if self.requests < 1 else "judge_max_tokens"
        return False

    def settle(self, reserved: int, *, tokens: int, requests: int = 1) -> None:
        """Put back what a request has not taken.

        Args:
            reserved: tokens that were reserved for it.
            tokens: tokens that it took.
            requests: 1, or 0 if it does not count.
        """
        self.reserved -= 1
        self.tokens += reserved - tokens
        self.requests += 1 - requests
