"""What became of a dataset's rows before the first iteration, for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..counts import agreeing, counted


def remarks_on_data(prepared: Mapping[str, Any]) -> list[str]:
    """Sentences about columns and rows that a run does not use, or reads otherwise than they are written.

    Args:
        prepared: what the journal says of the data; runs of earlier versions say less.
    """
    if "remarks" in prepared:
        return [str(remark) for remark in prepared["remarks"] or []]
    bad, too_long = (int(prepared.get(name) or 0) for name in ("bad_rows", "left_out"))
    found = []
    if bad:
        found.append(
            f"{counted(bad, 'row')} left out because {agreeing(bad, 'it', 'they')} can't be used (`bad_rows: skip`)."
        )
    if too_long:
        prompts = agreeing(too_long, "its prompt is", "their prompts are")
        found.append(f"{counted(too_long, 'row')} left out because {prompts} too long (`max_length`).")
    return found
