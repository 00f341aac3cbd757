"""Says of a run that it waits for people's votes on its newest iteration."""

from __future__ import annotations

from ...config.review import WAIT
from ...run.directory import RunDirectory
from ...run.journal import Step, newest
from ...run.stage import Stage
from ..formats import capitalised
from ..record import RunRecord
from .assignment import read_assignment


def waiting_in_words(directory: RunDirectory, record: RunRecord) -> list[str]:
    """Return a sentence if the run waits for votes on its newest iteration, which may still be rejected; else none.

    Raises:
        RunDirectoryError: if the assignment of the iteration's page is damaged.
    """
    if record.settings.get("review_gate") != WAIT or not record.settings.get("human_review") or not record.iterations:
        return []
    stage = record.iterations[-1].name
    has_begun = newest(record.journal, Step.GENERATE, Stage.of(stage.iteration + 1))
    if has_begun or stage in record.reviews:
        return []
    assignment = read_assignment(directory.assignment(stage))
    if assignment is None or not assignment.pairs:
        return []
    return [f"{capitalised(stage.label)} waits for people's votes, which may still reject it (`review_gate: wait`)."]
