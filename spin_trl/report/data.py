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
    bad, too_long = (int(prepared.get(name) or 0) for name in ("bad_rows", "left_out"))
    found = []
    if bad:
        found.append(
            f"{counted(bad, 'row')} left out because {'it' if bad == 1 else 'they'} can't be used (`bad_rows: skip`)."
        )
    if too_long:
        prompts = "its prompt is" if too_long == 1 else "their prompts are"
        found.append(f"{counted(too_long, 'row')} left out because {prompts} too long (`max_length`).")
    return found
