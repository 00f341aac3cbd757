"""Win rates from people's votes on pairs of answers, with intervals, reasons, and how far the reviewers agree.

The pairs are the sample, as the prompts are for other figures: if several reviewers vote on a pair, it counts once, with the
mean of their votes.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import krippendorff
import numpy as np

from .intervals import of_mean

WIN, LOSS, BOTH_GOOD, BOTH_BAD = "won", "lost", "both_good", "both_bad"
"""Results of a vote for the model that is reviewed: its answer is preferred, the other one is, or they are equal."""

TIE = "tie"
"""Result of a judge that does not prefer the same answer in both orders."""

SHARES: Mapping[str, float] = MappingProxyType({WIN: 1.0, LOSS: 0.0, BOTH_GOOD: 0.5, BOTH_BAD: 0.5, TIE: 0.5})
"""What a result adds to the win rate: ties count half."""


@dataclass(frozen=True)
class Vote:
    """A reviewer's vote on a pair of answers.

    Attributes:
        reviewer: name of the reviewer.
        pair: identifier of the pair.
        against: what the model's answer was compared with: `previous`, `start` or `real`.
        result: a key of [`SHARES`].
        reasons: reasons that the reviewer gave.
    """

    reviewer: str
    pair: str
    against: str
    result: str
    reasons: Sequence[str] = ()


@dataclass(frozen=True)
class WinRate:
    """How often a model's answers were preferred to others'.

    Attributes:
        value: share of pairs won, where ties count half; between 0 and 1.
        low, high: ends of its 95 % interval; NaN for a single pair with a tie.
        pairs: number of pairs with votes.
        votes: number of votes.
        reviewers: number of reviewers.
        results: number of votes for each result.
        reasons: for each result, how often each reason was given.
    """

    value: float
    low: float
    high: float
    pairs: int
    votes: int
    reviewers: int
    results: Mapping[str, int]
    reasons: Mapping[str, Mapping[str, int]]


def win_rate(votes: Sequence[Vote]) -> WinRate:
    """Return the win rate of a model from the votes on its answers.

    Raises:
        ValueError: if there are no votes.
    """
    by_pair: dict[str, list[float]] = {}
    for vote in votes:
        by_pair.setdefault(vote.pair, []).append(SHARES[vote.result])
    shares = [statistics.fmean(of_pair) for of_pair in by_pair.values()]
    low, high = of_mean(shares)
    reasons: dict[str, Counter[str]] = {}
    for vote in votes:
        reasons.setdefault(vote.result, Counter()).update(vote.reasons)
    return WinRate(
        value=statistics.fmean(shares),
        low=low if math.isnan(low) else max(low, 0.0),
        high=high if math.isnan(high) else min(high, 1.0),
        pairs=len(by_pair),
        votes=len(votes),
        reviewers=len({vote.reviewer for vote in votes}),
        results=Counter(vote.result for vote in votes),
        reasons={result: dict(of_result) for result, of_result in reasons.items() if of_result},
    )


def agreement(votes: Iterable[Vote]) -> float | None:
    """Return Krippendorff's alpha of the reviewers' votes (Content Analysis, 2004, chapter 11), with nominal results.

    1 means that they always agree, 0 that they agree as often as by chance; below 0, less often.

    Returns:
        None if no pair has votes of two reviewers. NaN does not occur: reviewers who give the same result throughout have 1.
    """
    by_reviewer: dict[str, dict[str, str]] = {}
    for vote in votes:
        by_reviewer.setdefault(vote.reviewer, {})[vote.pair] = vote.result
    counts = Counter(pair for of_reviewer in by_reviewer.values() for pair in of_reviewer)
    pairs = [pair for pair, count in counts.items() if count > 1]
    if not pairs:
        return None
    results = {of_reviewer[pair] for of_reviewer in by_reviewer.values() for pair in pairs if pair in of_reviewer}
    if len(results) == 1:  # alpha is not defined without two different values
        return 1.0
    table = [
        [list(SHARES).index(of_reviewer[pair]) if pair in of_reviewer else np.nan for pair in pairs]
        for of_reviewer in by_reviewer.values()
    ]
    return float(krippendorff.alpha(reliability_data=table, level_of_measurement="nominal"))


@dataclass(frozen=True)
class Agreement:
    """How far a judge agrees with people on the pairs that both have voted on.

    Attributes:
        pairs: number of these pairs.
        same: number of those on which the judge prefers what most people prefer, or both are undecided.
        alpha: Krippendorff's alpha of the two.
    """

    pairs: int
    same: int
    alpha: float


def agreement_with_people(people: Sequence[Vote], judge: Sequence[Vote]) -> Agreement | None:
    """Return how far a judge agrees with people; None if there is no pair that both have voted on.

    Args:
        people: votes of people, of which each pair's mean counts.
        judge: votes of the judge.
    """
    preferred = [_preferences(votes) for votes in (people, judge)]
    pairs = [pair for pair in preferred[0] if pair in preferred[1]]
    if not pairs:
        return None
    both = [Vote(str(number), pair, "", of_one[pair]) for number, of_one in enumerate(preferred) for pair in pairs]
    alpha = agreement(both)
    assert alpha is not None
    return Agreement(len(pairs), sum(preferred[0][pair] == preferred[1][pair] for pair in pairs), alpha)


def _preferences(votes: Sequence[Vote]) -> dict[str, str]:
    """Return what is preferred in each pair, by the mean of its votes: [`WIN`], [`LOSS`] or [`TIE`]."""
    shares: dict[str, list[float]] = {}
    for vote in votes:
        shares.setdefault(vote.pair, []).append(SHARES[vote.result])
    means = {pair: statistics.fmean(of_pair) for pair, of_pair in shares.items()}
    return {pair: WIN if mean > 0.5 else LOSS if mean < 0.5 else TIE for pair, mean in means.items()}
