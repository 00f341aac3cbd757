"""Detect a collapse that training figures hide: margins rise while the policy also unlearns the real responses.

A loss on log-ratios rewards a gap between real and generated responses, not likely real ones (arXiv 2402.13228, section 3).
The check only uses figures that are logged anyway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LOGS = 3
"""Number of consecutive logs that must lie below the one before them for a fall to count."""

NATS_PER_TOKEN = 0.5
"""Largest fall, in nats per token, that does not cause a warning."""


@dataclass(frozen=True)
class Collapse:
    """A point in training at which real responses have become unlikely.

    Attributes:
        step: optimiser step of the last of these logs.
        fall: drop in the log-probability of real responses over these logs, in nats per token.
        margins: `rewards/margins` before these logs, and at the last one.
    """

    step: int
    fall: float
    margins: tuple[float, float]

    def __str__(self) -> str:
        return (
            f"by step {self.step} the log-probability of real responses has fallen by {self.fall:.2f} nats per token over "
            f"{LOGS} logs, while margins rose from {self.margins[0]:.3g} to {self.margins[1]:.3g}: the policy is unlearning "
            "the responses it should learn. A smaller `learning_rate` or a larger `beta` keeps it closer to its opponent"
        )


def collapses(history: Sequence[Mapping[str, Any]], beta: float, tokens: float) -> list[Collapse]:
    """Return every log entry at which real responses have become unlikely while margins rose, oldest first.

    Each log covers other rows than the one before. So the fall is that of their log-ratio to the opponent, in which a row's
    own likelihood cancels out; without an opponent, the log-probability itself is logged in its place.

    Args:
        history: entries of the trainer's log, with `rewards/chosen` and `rewards/margins`.
        beta: factor from log-ratios to rewards.
        tokens: average number of tokens in a real response.
    """
    logs = [entry for entry in history if {"rewards/chosen", "rewards/margins"} <= entry.keys()]
    if beta <= 0 or tokens <= 0:
        return []
    found = []
    for end in range(LOGS, len(logs)):
        window = logs[end - LOGS : end + 1]
        real = [entry["rewards/chosen"] / beta / tokens for entry in window]
        margins = window[0]["rewards/margins"], window[-1]["rewards/margins"]
        falls = max(real[1:]) < real[0]
        if falls and real[0] - real[-1] > NATS_PER_TOKEN and margins[1] > margins[0]:
            found.append(Collapse(window[-1]["step"], real[0] - real[-1], margins))
    return found
