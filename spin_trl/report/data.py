"""What became of a dataset's rows before the first iteration, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .numbers import counted


def rows_left_out(prepared: Mapping[str, Any]) -> list[str]:
    """Sentences about rows that a run does not use.

    Args:
        prepared: what the journal says of the data; runs of earlier versions say less.
    """
    found = []
    if prepared.get("bad_rows"):
        found.append(f"{counted(prepared['bad_rows'], 'row')} left out because they can't be used (`bad_rows: skip`).")
    if prepared.get("left_out"):
        found.append(
            f"{counted(prepared['left_out'], 'row')} left out because their prompts are too long (`max_length`)."
        )
    return found
