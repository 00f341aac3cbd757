"""Reads reviewers' votes, checks them against the review page that they belong to, and records them in the journal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...counts import counted
from ...errors import RunDirectoryError, VotesError, nearest
from ...evaluation.win_rates import LOSS, WIN
from ...files import home_expanded, parse_json
from ...run.directory import RunDirectory
from ...run.journal import Journal, Step
from ...run.reviews import BY_FILE, BY_SERVER, REASONS, VOTE_CHOICES, newest_votes
from ...run.stage import Stage
from .assignment import SIDES, AssignedPair, Assignment, read_assignment, run_id

VOTES_FORMAT, VOTES_VERSION = "spin_trl review votes", 1
"""Format of a file of votes, and its version."""

LONGEST_NOTE, LONGEST_REVIEWER = 2_000, 80
"""Maximum number of characters of a note, and of a reviewer's name."""

LARGEST_FILE = 20_000_000
"""Maximum number of bytes of a file of votes."""


@dataclass(frozen=True)
class Submission:
    """The votes of a reviewer on a page.

    Attributes:
        reviewer: name of the reviewer.
        stage: stage whose answers were reviewed.
        page: digest of the page.
        votes: votes as the journal holds them.
        known: number of further votes in the file that were recorded before.
        taken_by: `file` or `server`.
    """

    reviewer: str
    stage: Stage
    page: str
    votes: Sequence[Mapping[str, Any]]
    known: int = 0
    taken_by: str = BY_FILE


def reviewed_stages(directory: RunDirectory) -> dict[Stage, Assignment]:
    """Return the iterations that have a review page, in order, with the assignments of their answers."""
    stages = map(Stage.of, directory.iterations())
    found = {stage: read_assignment(directory.assignment(stage)) for stage in stages}
    return {stage: assignment for stage, assignment in found.items() if assignment is not None}


def read_votes(paths: Sequence[Path], directory: RunDirectory) -> list[Submission]:
    """Read files of votes that the page has saved, and check all of them against the run before any is recorded.

    Votes that are already recorded are left out. A vote that somebody changed in a file can't be told from a genuine one.

    Args:
        paths: the files.
        directory: run directory.

    Raises:
        VotesError: if the file can't be read, belongs to another run or page, or holds an unknown pair or choice, two votes
            on a pair, or a vote that differs from the recorded one.
    """
    found: list[Submission] = []
    for path in map(home_expanded, paths):
        submission = _read_votes_in(path, directory)
        known = newest_votes(Journal(directory.journal).entries(), submission.stage)
        for earlier in found:  # of the files before this one
            if earlier.stage == submission.stage:
                known |= {(earlier.reviewer, vote["pair"]): vote for vote in earlier.votes}
        found.append(_without_known(path, submission, known))
    return found


def _read_votes_in(path: Path, directory: RunDirectory) -> Submission:
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE + 1)
        if len(content) > LARGEST_FILE:
            raise VotesError(f"{path} is larger than {LARGEST_FILE:,} bytes, so it is no file of votes.")
        found = parse_json(content.decode())
    except OSError as error:
        raise VotesError(f"{path} can't be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise VotesError(f"{path} is not JSON: {error}. Expected a file that the review page has saved.") from error
    if not isinstance(found, Mapping) or found.get("format") != VOTES_FORMAT:
        raise VotesError(f"{path} is no file of votes: expected one that the review page has saved.")
    if found.get("version") != VOTES_VERSION:
        raise VotesError(f"{path} has version {found.get('version')!r:.40} of the format; expected {VOTES_VERSION}.")
    if found.get("run") != run_id(directory):
        raise VotesError(f"The votes in {path} are for another run than that in {directory.path}.")
    pages = {assignment.page: (stage, assignment) for stage, assignment in reviewed_stages(directory).items()}
    page = found.get("page")
    if not isinstance(page, str) or page not in pages:
        raise VotesError(
            f"The votes in {path} are for a page that shows other answers than the run's pages do now (its digest is "
            f"{page!r:.60}), so they can't be counted."
        )
    stage, assignment = pages[page]
    votes = found.get("votes")
    if not isinstance(votes, list):
        raise VotesError(f"{path}: `votes` is {votes!r:.60}; expected a list.")
    try:
        reviewer = checked_name(found.get("reviewer"))
        parsed = [as_recorded(vote, assignment) for vote in votes]
    except VotesError as error:
        raise VotesError(f"{path}: {error}") from error
    return Submission(reviewer, stage, page, parsed)


def _without_known(
    path: Path, submission: Submission, known: Mapping[tuple[str, str], Mapping[str, Any]]
) -> Submission:
    """Return a file's votes without those that are known, and check that no vote contradicts another.

    Raises:
        VotesError: if the file has two votes on a pair, or another vote on a pair than the one that is recorded.
    """
    names = Counter(vote["pair"] for vote in submission.votes)
    if twice := next((name for name, count in names.items() if count > 1), None):
        raise VotesError(f"{path} has two votes on the pair {twice}.")
    new = []
    for vote in submission.votes:
        recorded = known.get((submission.reviewer, vote["pair"]))
        if recorded is None or (recorded["result"] is None and vote["result"] is not None):
            new.append(vote)
        elif vote["result"] is not None and recorded["choice"] != vote["choice"]:
            raise VotesError(
                f"{path}: {submission.reviewer!r} has already voted on the pair {vote['pair']}, but with another choice "
                f"({recorded['choice']}, here {vote['choice']}). Nothing is recorded. If this is another person, change "
                "the name in the file (`reviewer`); to change a vote, vote again with `spin-trl review` and no files."
            )
    return Submission(submission.reviewer, submission.stage, submission.page, new, len(names) - len(new))


def checked_name(value: Any) -> str:
    """Return a reviewer's name without white space around it.

    Raises:
        VotesError: if it is empty, too long or no text.
    """
    name = value.strip() if isinstance(value, str) else ""
    if not name or len(name) > LONGEST_REVIEWER or not name.isprintable():
        raise VotesError(
            f"`reviewer` is {value!r:.60}; expected a name of 1 to {LONGEST_REVIEWER} printable characters."
        )
    return name


def as_recorded(vote: Any, assignment: Assignment) -> dict[str, Any]:
    """Return a vote as the journal holds it: with its meaning, so that the page's assignment is not needed to read it.

    Args:
        vote: vote as the page sends or saves it: `pair`, `choice`, and if given `reasons` and `note`.
        assignment: assignment of the page.

    Raises:
        VotesError: if the pair, the choice or a reason is unknown, or the note is too long.
    """
    if not isinstance(vote, Mapping):
        raise VotesError(f"A vote is {vote!r:.60}; expected an object with `pair` and `choice`.")
    name, choice = vote.get("pair"), vote.get("choice")
    pair = assignment.pair(name) if isinstance(name, str) else None
    if pair is None:
        raise VotesError(f"The pair {name!r:.60} is not on the page.")
    if not isinstance(choice, str) or choice not in VOTE_CHOICES:
        near = nearest(choice, list(VOTE_CHOICES)) if isinstance(choice, str) else "."
        raise VotesError(
            f"The choice on the pair {pair.id} is {choice!r:.60}{near} Known are {', '.join(VOTE_CHOICES)}."
        )
    reasons, note = vote.get("reasons", []), vote.get("note", "")
    if not isinstance(reasons, list) or any(reason not in REASONS for reason in reasons):
        raise VotesError(f"The reasons on the pair {pair.id} are {reasons!r:.60}; known are {', '.join(REASONS)}.")
    if not isinstance(note, str) or len(note) > LONGEST_NOTE:
        raise VotesError(f"The note on the pair {pair.id} must be a text of at most {LONGEST_NOTE:,} characters.")
    return {
        "pair": pair.id,
        "against": pair.against,
        "choice": choice,
        "result": _result_of(choice, pair),
        "reasons": list(dict.fromkeys(reasons)),
        "note": note,
    }


def _result_of(choice: str, pair: AssignedPair) -> str | None:
    if choice in SIDES:
        return WIN if choice == pair.side else LOSS
    return VOTE_CHOICES[choice]


def record(directory: RunDirectory, submission: Submission) -> None:
    """Record a reviewer's new votes in the journal.

    Raises:
        RunDirectoryError: if the run directory can't be written to, or its journal is damaged.
    """
    if not submission.votes:
        return
    try:
        Journal(directory.journal).append(
            Step.REVIEW,
            submission.stage,
            reviewer=submission.reviewer,
            taken_by=submission.taken_by,
            page=submission.page,
            votes=list(submission.votes),
        )
    except OSError as error:
        raise RunDirectoryError(f"The votes can't be recorded in {directory.journal}: {error.strerror}.") from error


def record_vote(
    directory: RunDirectory, stage: Stage, assignment: Assignment, reviewer: str, vote: Mapping[str, Any]
) -> None:
    """Record a vote that the local server has taken, unless it is recorded already. It replaces an earlier one on the pair.

    Raises:
        VotesError: if the vote does not belong to the page.
        RunDirectoryError: if the run directory can't be written to, or its journal is damaged.
    """
    reviewer, found = checked_name(reviewer), as_recorded(vote, assignment)
    if newest_votes(Journal(directory.journal).entries(), stage).get((reviewer, found["pair"])) != found:
        record(directory, Submission(reviewer, stage, assignment.page, [found], taken_by=BY_SERVER))


def votes_of(directory: RunDirectory, stage: Stage, reviewer: str) -> list[dict[str, Any]]:
    """Return a reviewer's votes so far, as the page sends them."""
    known = newest_votes(Journal(directory.journal).entries(), stage)
    return [
        {
            name: vote.get(name, default)
            for name, default in (("pair", ""), ("choice", ""), ("reasons", []), ("note", ""))
        }
        for (name_of_reviewer, _), vote in known.items()
        if name_of_reviewer == reviewer.strip()
    ]


def recorded_in_words(submission: Submission) -> str:
    """Return a sentence on what was recorded of a file."""
    if not submission.votes:
        before = f"; {submission.known:,} recorded before" if submission.known else ""
        return f"No new votes of {submission.reviewer} on {submission.stage.label}{before}."
    votes = counted(sum(vote["result"] is not None for vote in submission.votes), "vote")
    skipped = sum(vote["result"] is None for vote in submission.votes)
    parts = [f"{votes} of {submission.reviewer} on {submission.stage.label} recorded"]
    parts += [f"{counted(skipped, 'pair')} skipped"] if skipped else []
    parts += [f"{counted(submission.known, 'further vote')} recorded before"] if submission.known else []
    return f"{'; '.join(parts)}."
