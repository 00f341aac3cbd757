"""What becomes of rows that can't be used: they end the run, or are left out up to a limit; all are reported together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..counts import agreeing, counted

REFUSE_BAD_ROWS, SKIP = BAD_ROWS = ("refuse", "skip")

MOST = 0.1
"""Share of the rows that `bad_rows: skip` may leave out, unless another is set."""

SHOWN_ROWS = 5
"""Rows that a message shows, of all that can't be used."""


BadRow = tuple[int, str]
"""A row that can't be used: its number, from 0, and what is wrong with it."""


@dataclass(frozen=True)
class BadRows:
    """What to do about rows that can't be used.

    Attributes:
        action: `refuse` or `skip`.
        most: with `skip`, how many may be left out: below 1 a share of the rows, rounded up; else a number.
    """

    action: str = REFUSE_BAD_ROWS
    most: float = MOST

    def limit(self, total: int) -> int:
        """How many of so many rows may be left out."""
        if self.action != SKIP:
            return 0
        return math.ceil(self.most * total) if self.most < 1 else int(self.most)


def refusal_of_rows(bad: Sequence[BadRow], total: int, name: str, policy: BadRows) -> str:
    """What a user is told whose rows can't be used.

    Args:
        bad: these rows, at least one.
        total: rows of the dataset.
        name: of the dataset.
        policy: that does not allow as many.
    """
    if policy.action == SKIP:
        return (
            f"{_share(bad, total)} of the {name} dataset can't be used; `bad_rows: skip` leaves out {policy.limit(total)} "
            f"at most (`bad_rows_max`: {policy.most:g}):{_list(bad)}\n"
            f"Correct {agreeing(len(bad), 'it', 'them')}, or raise `bad_rows_max`."
        )
    if len(bad) == 1:
        [(number, problem)], which = bad, "dataset" if name == "train" else f"{name} dataset"
        return f"Row {number} of the {which}: {problem}\nCorrect it, or skip it with `bad_rows: skip`."
    which = f"{_share(bad, total)} of the {name} dataset can't be used (numbered from 0):{_list(bad)}"
    return f"{which}\nCorrect them, or leave them out with `bad_rows: skip`."


def left_out(bad: Sequence[BadRow], total: int, name: str) -> str:
    """What a user is told whose rows are left out."""
    return (
        f"{_share(bad, total)} of the {name} dataset {agreeing(len(bad), 'is', 'are')} left out (`bad_rows: skip`), because "
        f"{agreeing(len(bad), 'it', 'they')} can't be used (numbered from 0):{_list(bad)}"
    )


def _share(bad: Sequence[BadRow], total: int) -> str:
    return f"{len(bad):,} of {counted(total, 'row')}"


def _list(bad: Sequence[BadRow]) -> str:
    lines = [f"\n  row {number}: {problem}" for number, problem in bad[:SHOWN_ROWS]]
    return "".join(lines) + (f"\n  and {len(bad) - SHOWN_ROWS} more" if len(bad) > SHOWN_ROWS else "")
