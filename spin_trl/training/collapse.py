"""A collapse that training figures hide: margins rise, while the policy unlearns the real responses, too.

A loss of log-ratios asks for a distance between real and generated responses, not for likely real ones
(arXiv 2402.13228, section 3). What is looked at is logged anyway.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LOGS = 3
"""After how many logs, each of them below the first, the fall is looked at."""

NATS_PER_TOKEN = 0.5
"""By how much they fall at most without a warning."""


@dataclass(frozen=True)
class Collapse:
    """Where real responses have become unlikely.

    Attributes:
        step: of the last of these logs.
        fall: of the log-probability of real responses over them, in nats a token.
        margins: `rewards/margins` before them, and at the last.
    """

    step: int
    fall: float
    margins: tuple[float, float]

    def __str__(self) -> str:
        return (
            f"by step {self.step} the log-probability of real responses has fallen by {self.fall:.2f} nats a token over "
            f"{LOGS} logs, while margins rose from {self.margins[0]:.3g} to {self.margins[1]:.3g}: the policy unlearns what "
            "it is to learn. A smaller `learning_rate` or a larger `beta` keeps it nearer to its opponent"
        )


def collapses(history: Sequence[Mapping[str, Any]], beta: float, tokens: float) -> list[Collapse]:
    """Every place of a log at which real responses have become unlikely while margins rose, oldest first.

    The rows of a log are others than those of the log before. So what falls is their log-ratio to the opponent, in which a
    row's own likelihood cancels out; without an opponent the log-probability itself is logged in its place.

    Args:
        history: entries of the trainer's log, with `rewards/chosen` and `rewards/margins`.
        beta: by which rewards are log-ratios.
        tokens: that a real response has on average.
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
