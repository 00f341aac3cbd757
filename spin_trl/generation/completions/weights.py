"""Which weights a server has: its log-probs of known responses, compared with those of the models that it could have.

The same weights give log-probs that differ a little between a server and this process: kernels add in another order, and in
bfloat16 every result is rounded. Logits between 16 and 32, which are usual, are then 1/8 apart, so each is wrong by up to
1/16, and two that were rounded independently differ by 1/24 on average (`benchmarks/served_weights.py` measures 0.04 with
SmolLM2-135M, and 0.12 for weights in FP8). Three numbers decide, all of them means of absolute
differences over thousands of tokens, in nats a token:

- `d`, between the server and the model that is expected. Above `MOST_DIFFERENCE` (0.1), the server has other weights.
- `o`, between the server and another model that it could have.
- `apart`, between these two models. As a distance, it is at least `|o - d|`, so `(o - d) / apart` is from -1 to 1: it is 1
  if the server agrees with the expected model exactly, -1 if with the other one, and near 0 if rounding hides which it is.
  At least `LEAST_PREFERENCE` (one half) is agreement with the one and not with the other. With random errors, that is
  reached when the models are about twice as far apart as the server's log-probs are from the right one. If both `d` and `o`
  are larger than `apart`, errors that are not random could decide, so it counts as 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

MOST_DIFFERENCE = 0.1
"""Largest mean difference, in nats a token, between the log-probs of the same weights here and on a server."""

LEAST_PREFERENCE = 0.5
"""Smallest `(o - d) / apart` that tells two models apart."""

_LOWEST_LOGPROB = -100.0
"""A probability of zero is minus infinity here and -9999 in vLLM's answers."""

Logprobs = Sequence[Sequence[float]]
"""Log-probs of the tokens of responses, in nats."""


class WeightsVerdict(StrEnum):
    """What a server's log-probs say about its weights."""

    RIGHT = "right"
    WRONG = "wrong"
    UNSURE = "can't be told apart"


@dataclass(frozen=True)
class WeightsComparison:
    """A server's log-probs, compared with those of models.

    Attributes:
        expected: name of the model that the server should have.
        tokens: number of tokens that were compared.
        distances: by model, mean absolute difference between the server's log-probs and the model's, in nats a token.
        apart: by other model, the same between that model and the expected one. Models that equal it are left out.
    """

    expected: str
    tokens: int
    distances: dict[str, float]
    apart: dict[str, float]

    def preference(self, other: str) -> float:
        """Return how clearly the server has the expected model and not another one: 1 clearly, -1 clearly the other one."""
        if min(self.distances[self.expected], self.distances[other]) > self.apart[other]:
            return 0.0
        return (self.distances[other] - self.distances[self.expected]) / self.apart[other]

    @property
    def verdict(self) -> WeightsVerdict:
        """Whether the server has the expected weights."""
        preferences = [self.preference(other) for other in self.apart]
        # A distance that is NaN is no agreement.
        if not self.distances[self.expected] <= MOST_DIFFERENCE or any(p <= -LEAST_PREFERENCE for p in preferences):
            return WeightsVerdict.WRONG
        return WeightsVerdict.RIGHT if all(p >= LEAST_PREFERENCE for p in preferences) else WeightsVerdict.UNSURE

    @property
    def unsure_of(self) -> list[str]:
        """Other models that rounding hides."""
        return [other for other in self.apart if abs(self.preference(other)) < LEAST_PREFERENCE]

    @property
    def found(self) -> str | None:
        """Name of the model whose weights the server has, or most likely has; None if of no model that was compared."""
        nearest = min(self.distances, key=self.distances.__getitem__)
        return nearest if self.distances[nearest] <= MOST_DIFFERENCE else None

    def in_words(self) -> str:
        """Return the numbers: `0.0004 nats a token from iteration-0, 0.4120 from start (0.4119 apart)`."""
        order = [self.expected, *self.apart]
        first, *others = [f"{self.distances[name]:.4f} from {name}" for name in order]
        apart = [f"{self.apart[name]:.4f} apart" for name in self.apart]
        described = [f"{number} ({distance})" for number, distance in zip(others, apart, strict=True)]
        return ", ".join([first.replace(" from", " nats a token from", 1), *described])

    def as_entry(self) -> dict[str, float]:
        """Return the distances for a manifest."""
        return {name: round(distance, 6) for name, distance in self.distances.items()}


def compare(expected: str, models: Mapping[str, Logprobs], served: Logprobs) -> WeightsComparison:
    """Compare a server's log-probs with those of models.

    Args:
        expected: name of the model that the server should have.
        models: log-probs of the same tokens under each model, by its name.
        served: log-probs that the server's model gives to them.

    Raises:
        ValueError: if the numbers of tokens differ, or there are none.
    """
    apart = {
        name: logprob_difference(models[expected], logprobs) for name, logprobs in models.items() if name != expected
    }
    others = {name: distance for name, distance in apart.items() if distance > 0}
    distances = {name: logprob_difference(models[name], served) for name in (expected, *others)}
    return WeightsComparison(expected, sum(map(len, served)), distances, others)


def logprob_difference(some: Logprobs, others: Logprobs) -> float:
    """Return the mean absolute difference of log-probs of the same tokens, in nats a token.

    Raises:
        ValueError: if the numbers of tokens differ, or there are none.
    """
    found = [
        abs(max(one, _LOWEST_LOGPROB) - max(other, _LOWEST_LOGPROB))
        for row, other_row in zip(some, others, strict=True)
        for one, other in zip(row, other_row, strict=True)
    ]
    if not found:
        raise ValueError("there are no tokens to compare")
    return sum(found) / len(found)
