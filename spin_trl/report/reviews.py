"""People's votes in the report and on cards: the table of win rates, and a sentence on each iteration with votes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from ..evaluation.win_rates import BOTH_BAD, BOTH_GOOD, LOSS, WIN, WinRate, agreement
from ..run.reviews import reviews_in, votes_on, worse_by_votes
from .formats import NumberFormat, capitalised
from .record import RunRecord
from .tables import Cell, Row, Table

COMPARED: Mapping[str, str] = MappingProxyType(
    {"previous": "previous model", "start": "start", "real": "real response"}
)
"""What answers are compared with, in words."""

_SHARE = NumberFormat(percent=True, digits=1)

LEAST_WIN_RATE = 0.4
"""Default of `review_min_win_rate`, repeated here because importing the configuration would import torch."""


def reviews(record: RunRecord) -> Table | None:
    """Return a table with one row for each comparison that people have voted on; None if there are no votes."""
    entries, rows = reviews_in(record.journal), []
    for stage, rates in record.reviews.items():
        votes = votes_on(entries, stage)
        for against, rate in rates.items():
            alpha = agreement([vote for vote in votes if vote.against == against])
            result = [Cell(f"{rate.results.get(name, 0):,}", _reasons(rate, name)) for name in _COLUMNS_OF_RESULTS]
            cells = [
                Cell(_SHARE.value(rate.value), _SHARE.interval(rate.low, rate.high)),
                Cell(f"{rate.pairs:,}"),
                *result,
                Cell(f"{rate.reviewers:,}", "" if alpha is None else f"alpha {alpha:.2f}"),
            ]
            label = f"{stage.label} against the {COMPARED.get(against, against)}"
            rows.append(Row(label.replace("iteration ", "iteration\u00a0"), cells, stage == record.best))
    headings = ["compared", "win rate", "pairs", "preferred", "other preferred", "both good", "both bad", "reviewers"]
    return Table(headings, rows) if rows else None


_COLUMNS_OF_RESULTS = (WIN, LOSS, BOTH_GOOD, BOTH_BAD)


def _reasons(rate: WinRate, result: str) -> str:
    found = sorted(rate.reasons.get(result, {}).items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {count}" for name, count in found)


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
