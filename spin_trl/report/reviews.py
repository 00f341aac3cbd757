"""People's votes in the report and on cards: the table of win rates, and a sentence on each iteration with votes."""

from __future__ import annotations

from collections.abc import Sequence

from ..evaluation.win_rates import (
    BOTH_BAD,
    BOTH_GOOD,
    LOSS,
    TIE,
    WIN,
    Vote,
    agreement,
    agreement_with_people,
)
from ..run.journal import Entry
from ..run.reviews import (
    BY_JUDGE,
    COMPARED,
    entries_on,
    reasons_in_words,
    reviews_in,
    votes_on,
    win_rates,
    worse_by_votes,
)
from ..run.stage import Stage
from .formats import NumberFormat, capitalised
from .record import RunRecord
from .tables import Cell, Row, Table

_SHARE = NumberFormat(percent=True, digits=1)

LEAST_WIN_RATE = 0.4
"""Default of `review_min_win_rate`, repeated here because importing the configuration would import torch."""


def reviews(record: RunRecord) -> Table | None:
    """Return a table with one row for each comparison that people or the judge have voted on; None if there are no votes."""
    entries, rows = reviews_in(record.journal), []
    is_judged = any(entry.get("taken_by") == BY_JUDGE for entry in entries)
    results = (WIN, LOSS, BOTH_GOOD, BOTH_BAD, *([TIE] if is_judged else []))
    for stage in (one.name for one in record.iterations):
        people, judge = votes_on(entries, stage), votes_on(entries, stage, by_judge=True)
        for votes in (people, judge):
            for against, rate in win_rates(votes).items():
                of_both = [[vote for vote in one if vote.against == against] for one in (people, judge)]
                label = f"{stage.label} against the {COMPARED.get(against, against)}"
                label += f", judge {votes[0].reviewer}" if votes is judge else ""
                cells = [
                    Cell(_SHARE.value(rate.value), _SHARE.interval(rate.low, rate.high)),
                    Cell(f"{rate.pairs:,}"),
                    *(Cell(f"{rate.results.get(name, 0):,}", reasons_in_words(rate, name)) for name in results),
                    _judge_cell(entries, stage, *of_both) if votes is judge else _reviewers_cell(of_both[0]),
                ]
                rows.append(Row(label.replace("iteration ", "iteration\u00a0"), cells, stage == record.best))
    headings = [_HEADINGS[name] for name in results]
    return Table(["compared", "win rate", "pairs", *headings, "reviewers"], rows) if rows else None


_HEADINGS = {
    WIN: "preferred", LOSS: "other preferred", BOTH_GOOD: "both good", BOTH_BAD: "both bad", TIE: "tie",
}  # fmt: skip
"""Headings of the columns of results."""


def _reviewers_cell(votes: Sequence[Vote]) -> Cell:
    """Return the number of people who have voted, and how far they agree."""
    alpha = agreement(votes)
    return Cell(f"{len({vote.reviewer for vote in votes}):,}", "" if alpha is None else f"alpha {alpha:.2f}")


def _judge_cell(entries: Sequence[Entry], stage: Stage, people: Sequence[Vote], judge: Sequence[Vote]) -> Cell:
    """Return how far the judge agrees with people, and how often the place of an answer decided."""
    found = agreement_with_people(people, judge)
    said = [] if found is None else [f"as people on {found.same} of {found.pairs}, alpha {found.alpha:.2f}"]
    position = entries_on(entries, stage, by_judge=True)[-1].get("position") or {}
    if position.get("pairs"):
        share = _SHARE.value(position.get("by_position", 0) / position["pairs"])
        said.append(f"the place decided {share} of all pairs")
    return Cell("judge", "; ".join(said))


def review_note(record: RunRecord) -> str | None:
    """Return a note on the table of win rates: who compared the answers, and what the figures mean; None without votes."""
    entries = reviews_in(record.journal)
    if not entries:
        return None
    judged = [entry.get("taken_by") == BY_JUDGE for entry in entries]
    said = "" if all(judged) else "People compared answers to held-out prompts without knowing whose they were. "
    said += "The judge, a language model, compared answers in both orders. " if any(judged) else ""
    said += "The win rate is the share of pairs won, where ties count half; a pair with several votes counts once."
    alpha = " Alpha is Krippendorff's: 1 if the reviewers always agree, 0 if no more than by chance."
    return said if all(judged) else said + alpha


def reviews_in_words(record: RunRecord) -> list[str]:
    """Return sentences on iterations that people found worse than another model, and what the run did about it."""
    said = record.settings.get("review_min_win_rate")
    least = float(said) if isinstance(said, int | float) else LEAST_WIN_RATE
    entries, found = reviews_in(record.journal), []
    for stage in record.reviews:
        for sentence in worse_by_votes(entries, stage, least):
            end = "; it can't become the best model" if stage in record.rejected else ""
            found.append(f"{capitalised(stage.label)}: {sentence}{end}.")
    return found
