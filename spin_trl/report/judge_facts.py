"""What a reader of a judge's scores must know: who judged, at what cost, and what is wrong with the scores."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..counts import counted
from ..evaluation.figures import SCORE
from ..run.journal import JUDGED, RETENTION, TEST, Entry, Step, is_of
from .record import RunRecord

_SETS = (
    (Step.EVALUATE, "held_out", ""),
    (Step.TEST, "prompts", f", {TEST}"),
    (Step.RETENTION, "prompts", f", {RETENTION}"),
)
"""Steps that score answers: the key of their number of prompts, and how they are named next to a stage."""


def who_judged(record: RunRecord, *, names_host: bool = True) -> str:
    """Describe the judge: its model, host and rubric, and what it has cost; empty without one.

    Args:
        record: record of the run.
        names_host: whether to name the host, which may be private.
    """
    found = [notes for _, _, _, notes in _judged(record)]
    if not found:
        return ""
    last = found[-1]
    spent = last.get("spent") or {}
    cost = f"{counted(spent.get('requests', 0), 'request')}, {counted(spent.get('tokens', 0), 'token')}"
    host = f" at {last.get('host')}" if names_host else ""
    return f"{last.get('model')}{host}, rubric {last.get('rubric')}; {cost}"


def faults_of_judge(record: RunRecord) -> str:
    """Describe what is wrong with a judge's scores, the worst first: that it can be talked into them, and missing ones."""
    every = list(_judged(record))
    is_flattered = any(notes.get("follows_instructions") for _, _, _, notes in every)
    faults = ["it follows instructions inside answers"] if is_flattered else []
    for entry, prompts, where, _ in every:
        without = (entry.get("unscored") or {}).get(f"{SCORE}/{JUDGED}")
        if without:
            total = int(entry.get(prompts, 0))
            faults.append(f"{entry['stage']}{where}: {total - without:,} of {counted(total, 'answer')} scored")
    caps = {str(notes["ended_by"]) for _, _, _, notes in every if notes.get("ended_by")}
    return "; ".join([*faults, *(f"`{cap}` was reached" for cap in sorted(caps))])


def _judged(record: RunRecord) -> Iterator[tuple[Entry, str, str, dict[str, Any]]]:
    """Yield the entries with a judge: the entry, the key of its number of prompts, its set in words, and the notes."""
    for entry in record.journal:
        for step, prompts, where in _SETS:
            if is_of(entry, step) and isinstance(entry.get(JUDGED), dict):
                yield entry, prompts, where, entry[JUDGED]
