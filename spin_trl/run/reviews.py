"""People's votes on an iteration's answers, as the journal records them, and what they say about the iteration."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from ..counts import counted
from ..evaluation.figures import REVIEWED
from ..evaluation.win_rates import BOTH_BAD, BOTH_GOOD, SHARES, Vote, WinRate, win_rate
from .journal import Entry, Step, is_of

VOTE_CHOICES: Mapping[str, str | None] = MappingProxyType(
    {"left": "", "right": "", "both_good": BOTH_GOOD, "both_bad": BOTH_BAD, "skip": None}
)
"""What a reviewer can choose, with the result if that does not depend on the sides; None: no vote."""

REASONS = ("wrong", "incomplete", "invented", "rude", "format", "other")
"""Reasons that a reviewer can give."""

BY_FILE, BY_SERVER, BY_JUDGE = "file", "server", "judge"
"""How votes were taken: from a file that a reviewer saved, by the local server of `spin-trl review`, or from a judge."""

ENOUGH_PAIRS = 20
"""Number of pairs with votes below which votes decide nothing."""


def reviews_in(entries: Iterable[Entry]) -> list[Entry]:
    """Return the journal's entries with votes, oldest first. They are few, so that they need not be searched for again."""
    return [entry for entry in entries if is_of(entry, Step.REVIEW)]


def entries_on(entries: Iterable[Entry], stage: str, *, by_judge: bool = False) -> list[Entry]:
    """Return the journal's entries with people's votes on a stage, or with the judge's, oldest first."""
    return [
        entry
        for entry in entries
        if is_of(entry, Step.REVIEW, stage) and (entry.get("taken_by") == BY_JUDGE) == by_judge
    ]


def newest_votes(
    entries: Iterable[Entry], stage: str, *, by_judge: bool = False
) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Return the newest vote of each reviewer on each pair, also skipped ones, as recorded, by reviewer and pair."""
    found: dict[tuple[str, str], Mapping[str, Any]] = {}
    for entry in entries_on(entries, stage, by_judge=by_judge):
        for vote in entry["votes"]:
            key = entry["reviewer"], vote["pair"]
            found.pop(key, None)  # so that the order is that of the newest votes
            found[key] = vote
    return found


def votes_on(entries: Iterable[Entry], stage: str, *, by_judge: bool = False) -> list[Vote]:
    """Return people's votes on a stage, or the judge's: the newest of each reviewer on each pair, without skipped ones."""
    return [
        Vote(reviewer, pair, vote["against"], vote["result"], tuple(vote["reasons"]))
        for (reviewer, pair), vote in newest_votes(entries, stage, by_judge=by_judge).items()
        if vote["result"] in SHARES
    ]


def win_rates(votes: Sequence[Vote]) -> dict[str, WinRate]:
    """Return the win rates of a stage, by what they compare it with: `previous`, `start`, `real`, in this order."""
    against = dict.fromkeys(vote.against for vote in votes)
    ordered = sorted(against, key=lambda other: [*COMPARED, other].index(other))
    return {other: win_rate([vote for vote in votes if vote.against == other]) for other in ordered}


def is_worse(rate: WinRate, least: float) -> bool:
    """Return whether people found the model worse: the whole interval lies below `least`, from enough pairs."""
    return rate.pairs >= ENOUGH_PAIRS and rate.high < least


def worse_by_votes(entries: Iterable[Entry], stage: str, least: float) -> list[str]:
    """Return sentences on the models whose answers people prefer to this stage's; none if it is not found worse.

    That people prefer the real response counts for nothing here: it is no model.

    Args:
        entries: entries of the journal.
        stage: stage whose answers were compared.
        least: win rate that the stage should reach.
    """
    rates = win_rates(votes_on(entries, stage))
    return [
        f"people prefer the answers of the {COMPARED[other]}; its own win rate is {rate_in_words(rate)}, below "
        f"`review_min_win_rate` ({100 * least:g} %)"
        for other, rate in rates.items()
        if other in _MODELS and is_worse(rate, least)
    ]


COMPARED: Mapping[str, str] = MappingProxyType(
    {"previous": "previous model", "start": "start", "real": "real response"}
)
"""What answers are compared with, in words."""

_MODELS = ("previous", "start")
"""Those that are models."""


def reasons_in_words(rate: WinRate, result: str) -> str:
    """Return the reasons that reviewers gave with a result, the most frequent first; empty if they gave none."""
    found = sorted(rate.reasons.get(result, {}).items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {count}" for name, count in found)


def rate_in_words(rate: WinRate) -> str:
    """Return a win rate with its interval and the numbers of pairs and reviewers."""
    interval = "" if math.isnan(rate.low) else f" ({100 * rate.low:.1f} to {100 * rate.high:.1f})"
    by = f", {counted(rate.reviewers, 'reviewer')}" if rate.reviewers > 1 else ""
    return f"{100 * rate.value:.1f} %{interval} on {counted(rate.pairs, 'pair')}{by}"


def review_figures(entries: Iterable[Entry], stage: str, *, by_judge: bool = False) -> dict[str, float]:
    """Return the win rates of a stage as figures between 0 and 1: `review/previous`, `review/previous_low`, and so on; or
    those of the judge, `review/judge/previous` and so on."""
    found: dict[str, float] = {}
    prefix = f"{REVIEWED}{BY_JUDGE}/" if by_judge else REVIEWED
    for other, rate in win_rates(votes_on(entries, stage, by_judge=by_judge)).items():
        found |= {f"{prefix}{other}": rate.value, f"{prefix}{other}_low": rate.low, f"{prefix}{other}_high": rate.high}
    return found
