"""Rank the samples of a prompt by a scorer's numbers: the best and the worst make a preference pair."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import RecipeError, nearest
from .scoring import Score

EQUAL_SCORES, IDENTICAL, WITHOUT_SCORE = WITHOUT_PAIR = "equal", "identical", "unscored"
"""Why a prompt gives no pair: all its samples have the same score; the best and the worst are the same text; fewer than two
have a score."""


@dataclass(frozen=True)
class BestAndWorst:
    """The samples of a prompt that make a pair.

    Attributes:
        best: number of the sample with the highest score; the first of several.
        worst: number of the sample with the lowest score; the first of several.
    """

    best: int
    worst: int


def best_and_worst(scores: Sequence[float], texts: Sequence[str]) -> BestAndWorst | str:
    """Return the samples that make a pair, or why there is none (one of `WITHOUT_PAIR`).

    Args:
        scores: score of each sample; samples whose score is not a finite number are never chosen or rejected.
        texts: text of each sample; leading and trailing white space is ignored when they are compared.
    """
    scored = [sample for sample, score in enumerate(scores) if math.isfinite(score)]
    if len(scored) <= 1:
        return WITHOUT_SCORE
    best, worst = max(scored, key=lambda sample: scores[sample]), min(scored, key=lambda sample: scores[sample])
    if scores[best] == scores[worst]:
        return EQUAL_SCORES
    if texts[best].strip() == texts[worst].strip():
        return IDENTICAL
    return BestAndWorst(best, worst)


def ranking_number(scores: Iterable[Score], wanted: str | None = None) -> str | None:
    """Return the name of the number that ranks samples: the first that the scorer returns; None if it returns no names.

    Args:
        scores: a scorer's results.
        wanted: name of the number to use instead.

    Raises:
        RecipeError: if the scorer does not return the wanted number; the message names the nearest.
    """
    known = dict.fromkeys(name for score in scores if isinstance(score, Mapping) for name in score)
    if wanted is None:
        return next(iter(known), None)
    check_ranking_number(wanted, list(known))
    return wanted


def check_ranking_number(wanted: str, known: Sequence[str]) -> None:
    """Raise if a number is not among those that a scorer returns.

    Raises:
        RecipeError: if it is not; the message names the nearest.
    """
    if wanted not in known:
        returned = f"the scorer returns {', '.join(known)}" if known else "the scorer returns no named numbers"
        raise RecipeError(f"`--score` is {wanted!r}; {returned}{nearest(wanted, known).replace('; did', '. Did')}")


def number_in(score: Score, name: str | None) -> float:
    """Return the number of a scorer's result with this name, or its only number if it has no names; NaN if there is none."""
    if isinstance(score, Mapping):
        return math.nan if name is None else score.get(name, math.nan)
    return score if name is None else math.nan
