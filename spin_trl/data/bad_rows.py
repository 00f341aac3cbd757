"""Handling of rows that can't be used: they end the run, or are left out up to a limit. All are reported together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..counts import agreeing, counted

REFUSE_BAD_ROWS, SKIP = BAD_ROWS = ("refuse", "skip")

MOST = 0.1
"""Default share of the rows that `bad_rows: skip` may leave out."""

SHOWN_ROWS = 5
"""Maximum number of bad rows that a message lists."""


BadRow = tuple[int, str]
"""A row that can't be used: its number, from 0, and what is wrong with it."""


@dataclass(frozen=True)
class BadRows:
    """Policy for rows that can't be used.

    Attributes:
        action: `refuse` or `skip`.
        most: with `skip`, maximum number of rows to leave out; a value below 1 is a share of the rows, rounded up.
    """

    action: str = REFUSE_BAD_ROWS
    most: float = MOST

    def limit(self, total: int) -> int:
        """Return how many of `total` rows may be left out."""
        if self.action != SKIP:
            return 0
        return math.ceil(self.most * total) if self.most < 1 else int(self.most)


def refusal_of_rows(bad: Sequence[BadRow], total: int, name: str, policy: BadRows) -> str:
    """Return the error message for more bad rows than the policy allows.

    Args:
        bad: bad rows, at least one.
        total: number of rows in the dataset.
        name: name of the dataset.
        policy: policy that is violated.
    """
    if policy.action == SKIP:
        return (
            f"{_share(bad, total)} of the {name} dataset can't be used; `bad_rows: skip` leaves out at most "
            f"{policy.limit(total)} (`bad_rows_max`: {policy.most:g}):{_list(bad)}\n"
            f"Correct {agreeing(len(bad), 'it', 'them')}, or raise `bad_rows_max`."
        )
    if len(bad) == 1:
        [(number, problem)], which = bad, "dataset" if name == "train" else f"{name} dataset"
        return f"Row {number} of the {which}: {problem}\nCorrect it, or skip it with `bad_rows: skip`."
    which = f"{_share(bad, total)} of the {name} dataset can't be used (numbered from 0):{_list(bad)}"
    return f"{which}\nCorrect them, or leave them out with `bad_rows: skip`."


def left_out(bad: Sequence[BadRow], total: int, name: str) -> str:
    """Return the warning about rows that are left out."""
    return (
        f"{_share(bad, total)} of the {name} dataset {agreeing(len(bad), 'is', 'are')} left out (`bad_rows: skip`), because "
        f"{agreeing(len(bad), 'it', 'they')} can't be used (numbered from 0):{_list(bad)}"
    )


def _share(bad: Sequence[BadRow], total: int) -> str:
    return f"{len(bad):,} of {counted(total, 'row')}"


def _list(bad: Sequence[BadRow]) -> str:
    lines = [f"\n  row {number}: {problem}" for number, problem in bad[:SHOWN_ROWS]]
    return "".join(lines) + (f"\n  and {len(bad) - SHOWN_ROWS} more" if len(bad) > SHOWN_ROWS else "")
