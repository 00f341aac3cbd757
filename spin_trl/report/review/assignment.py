"""Which answer of a review page is whose. It lies in the run directory; neither the page nor its identifiers tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...config.review import ANSWER_MODES, COMPARED_WITH
from ...errors import RunDirectoryError
from ...files import short_digest, write_json
from ...run.directory import RunDirectory
from ...run.journal import Journal
from ...run.objects import read_object

SIDES = ("left", "right")
"""Sides of a pair on the page."""


@dataclass(frozen=True)
class AssignedPair:
    """A pair of answers on a review page.

    Attributes:
        id: identifier on the page.
        key: key of the prompt.
        against: what the model's answer is compared with: `previous`, `start` or `real`.
        side: side of the model's own answer, `left` or `right`.
    """

    id: str
    key: str
    against: str
    side: str

    @property
    def other_side(self) -> str:
        """Side of the other answer."""
        return SIDES[1 - SIDES.index(self.side)]


@dataclass(frozen=True)
class Assignment:
    """The pairs of a review page, in their order on it.

    Attributes:
        run: identifier of the run.
        stage: stage whose answers are reviewed.
        answers: how they were decoded: `sampled` or `greedy`.
        page: digest of all that the page shows.
        pairs: the pairs.
        identical: number of prompts whose two answers are the same text, and which are not shown, by what is compared.
    """

    run: str
    stage: str
    answers: str
    page: str
    pairs: Sequence[AssignedPair]
    identical: Mapping[str, int]

    def write(self, path: Path) -> None:
        """Write the assignment to a file."""
        write_json(path, asdict(self))

    def pair(self, name: str) -> AssignedPair | None:
        """Return the pair with an identifier, or None."""
        return next((pair for pair in self.pairs if pair.id == name), None)


def read_assignment(path: Path) -> Assignment | None:
    """Read an assignment; None if there is no such file.

    Raises:
        RunDirectoryError: if the file contains something else.
    """
    way_out = f"Delete it and `review.html`: `spin-trl review {path.parent.parent}` writes a new page. Votes are kept."
    found = read_object(path, way_out)
    if not found and not path.exists():
        return None
    try:
        assignment = _parsed(found)
        if assignment.stage != path.parent.name:
            raise ValueError(f"it belongs to {assignment.stage!r:.60}")
        return assignment
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise RunDirectoryError(f"{path} is damaged: {type(error).__name__}: {error}. {way_out}") from error


def _parsed(found: Mapping[str, Any]) -> Assignment:
    pairs = [
        AssignedPair(**{name: _checked_text(pair[name]) for name in AssignedPair.__annotations__})
        for pair in found["pairs"]
    ]
    identical = {_one_of(COMPARED_WITH, name): int(count) for name, count in dict(found["identical"]).items()}
    for pair in pairs:
        _one_of(COMPARED_WITH, pair.against)
        _one_of(SIDES, pair.side)
    names = [pair.id for pair in pairs]
    if len(set(names)) < len(names):
        raise ValueError("a pair occurs twice")
    run, stage, page = (_checked_text(found[name]) for name in ("run", "stage", "page"))
    return Assignment(run, stage, _one_of(ANSWER_MODES, found["answers"]), page, pairs, identical)


def _checked_text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.60} is not a text")
    return value


def _one_of(known: Sequence[str], value: Any) -> str:
    if value not in known:
        raise ValueError(f"{value!r:.60} is none of {', '.join(known)}")
    return str(value)


def run_id(directory: RunDirectory) -> str:
    """Return the identifier of a run, which votes carry: it stays when the directory is moved, and a new run has another.

    Raises:
        RunDirectoryError: if the run has not begun.
    """
    entries = Journal(directory.journal).entries()
    if not entries:
        raise RunDirectoryError(f"The run in {directory.path} has not begun: its journal is empty.")
    first = entries[0]
    return short_digest(f"{first.get('time')} {first['phase']} {first['stage']}")
