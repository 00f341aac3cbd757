"""The compute of a run's steps, counted in tokens, so that arms can be compared at equal compute.

A token that the model runs over costs about two operations per weight in a forward pass, and twice that again in the
backward pass, so a token that is trained on counts three times. Tokens are unique ones: a prompt that several responses
share counts once. Evaluation is left out: every arm is measured in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

TRAINED_COUNTS = 3
"""Forward passes that cost as much as the forward and backward pass over a token."""

COMPUTE = "compute"
"""Key of a step's compute in its journal entry."""


@dataclass(frozen=True)
class Compute:
    """Tokens that the model ran over.

    Attributes:
        trained: tokens trained on, forward and backward, in all epochs together.
        scored: tokens whose log-probabilities under an opponent or the start were computed, without a gradient.
        prefilled: prompt tokens that generation ran over before it sampled.
        sampled: tokens sampled.
    """

    trained: float = 0.0
    scored: float = 0.0
    prefilled: float = 0.0
    sampled: float = 0.0

    @property
    def total(self) -> float:
        """Compute in forward passes over a token."""
        return TRAINED_COUNTS * self.trained + self.scored + self.prefilled + self.sampled

    def __add__(self, other: Compute) -> Compute:
        return Compute(*(ours + getattr(other, name) for name, ours in asdict(self).items()))

    def as_entry(self) -> dict[str, dict[str, float]]:
        """Return the counts that are not 0, under their key in a journal entry."""
        return {COMPUTE: {name: count for name, count in asdict(self).items() if count}}


def compute_of(entries: Iterable[Mapping[str, Any]]) -> Compute | None:
    """Return the compute of journal entries together; None if none of them has any, as in runs of earlier versions."""
    found = [entry[COMPUTE] for entry in entries if isinstance(entry.get(COMPUTE), Mapping)]
    if not found:
        return None
    known = asdict(Compute())
    return sum((Compute(**{name: one.get(name, 0.0) for name in known}) for one in found), Compute())
