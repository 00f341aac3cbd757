"""`spin-trl review`: let people compare a run's answers without knowing whose they are, and count their votes."""

from __future__ import annotations

import argparse
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..counts import counted
from ..report.terminal import printable, shown_path
from .commands import add_command, add_trust

if TYPE_CHECKING:
    from ..report.review.assignment import Assignment
    from ..run.directory import RunDirectory
    from ..run.stage import Stage

USUAL_PORT = 8744
"""Port of the page unless another is asked for. A browser keeps what it could not send, but by port."""

_WHAT_IT_DOES = """\
Show pairs of answers to held-out prompts side by side, the run's and another model's, without telling whose an answer is.
Without files, a page is served to this machine alone, and each vote is recorded at once. Reviewers elsewhere get the file
review.html of an iteration's folder; give this command the files that they save. Then the win rates are printed. `spin-trl
run` takes the votes into account (`review_gate`).
"""


def add(commands: Any) -> None:
    """Add the command."""
    what = "let people compare a run's answers blindly, and count their votes"
    parser = add_command(commands, "review", review, help=what, description=_WHAT_IT_DOES, takes_settings=False)
    parser.add_argument("run", help="run directory")
    parser.add_argument("votes", nargs="*", type=Path, metavar="votes.json", help="files that reviewers have saved")
    parser.add_argument(
        "--iteration",
        type=int,
        metavar="T",
        help="iteration to review, counted from 0 (default: the newest with a page)",
    )
    parser.add_argument(
        "--port", type=int, metavar="N", help=f"port of the page (default: {USUAL_PORT}, or any other if it is taken)"
    )
    parser.add_argument("--show", action="store_true", help="only print the win rates so far")
    add_trust(parser)


def review(options: argparse.Namespace, overrides: list[str]) -> None:
    """Record votes from files, or serve the page; then print the win rates."""
    from ..report.review.votes import read_votes, record, recorded_in_words
    from ..run.directory import RunDirectory

    directory = RunDirectory(options.run)
    directory.check_run()
    if options.votes:
        _refuse_beside_files(options)
        submissions = read_votes(options.votes, directory)
        for submission in submissions:
            record(directory, submission)
            print(printable(recorded_in_words(submission)))
        stages = dict.fromkeys(submission.stage for submission in submissions)
    else:
        stage, assignment = _wanted(directory, options)
        stages = {stage: None}
        if not options.show:
            _serve_page(directory, stage, assignment, options.port)
    _print_votes(directory, list(stages))


def _refuse_beside_files(options: argparse.Namespace) -> None:
    """Raise if an option is given that files of votes leave no use for: they say which iteration they are on."""
    from ..errors import InputError

    given = {"--iteration": options.iteration is not None, "--port": options.port is not None, "--show": options.show}
    if names := [name for name, is_given in given.items() if is_given]:
        raise InputError(
            f"`{names[0]}` can't be combined with files of votes, which are recorded on the iteration that they name. "
            f"Leave out `{names[0]}`, or the files; nothing is recorded."
        )


def _wanted(directory: RunDirectory, options: argparse.Namespace) -> tuple[Stage, Assignment]:
    """Return the stage to review, with its assignment; without a page, one is written."""
    from ..errors import RunDirectoryError
    from ..report.review.votes import reviewed_stages
    from ..run.journal import Journal, Step
    from ..run.stage import Stage

    known = reviewed_stages(directory)
    if options.iteration is None and known:
        stage = list(known)[-1]
    else:
        entries = Journal(directory.journal).entries()
        measured = [entry["stage"] for entry in entries if entry["phase"] == Step.EVALUATE]
        stages = [stage for stage in map(Stage.of, directory.iterations()) if stage in measured]
        if not stages:
            raise RunDirectoryError(f"No iteration of {directory.path} has been evaluated on held-out prompts yet.")
        stage = stages[-1] if options.iteration is None else Stage.of(options.iteration)
        if stage not in stages:
            there = ", ".join(str(one.iteration) for one in stages)
            raise RunDirectoryError(
                f"`--iteration` is {options.iteration}, but the evaluated iterations of {directory.path} are {there}."
            )
    if stage not in known or not directory.review_page(stage).exists():
        from ..play.open import reopen
        from ..play.review import make_page
        from .session import quieten

        quieten()
        return stage, make_page(reopen(options.run, trust_run=options.trust_run), stage)
    return stage, known[stage]


def _serve_page(directory: RunDirectory, stage: Stage, assignment: Assignment, port: int | None) -> None:
    """Serve the page until the user ends it. Every vote is recorded at once."""
    from ..errors import RunDirectoryError
    from ..report.review.server import serve_review
    from ..report.review.stored import stored_data
    from ..report.review.votes import record_vote, votes_of

    data = stored_data(directory.review_page(stage), assignment)
    if data is None:
        raise RunDirectoryError(
            f"{directory.review_page(stage)} is not the page that the run has written. Delete it: this command writes it "
            "again."
        )
    if not assignment.pairs:
        print(
            printable(f"There is nothing to compare: all answers of {stage.label} are the same texts as the others.")
        )
        return
    print(printable(f"{counted(len(assignment.pairs), 'pair')} of answers of {stage.label}. Ctrl-C ends the review."))
    serve_review(
        data,
        lambda reviewer: votes_of(directory, stage, reviewer),
        lambda reviewer, vote: record_vote(directory, stage, assignment, reviewer, vote),
        announce=lambda url: print(f"For one reviewer: {url}", flush=True),
        port=_free_port() if port is None else port,
    )


def _free_port() -> int:
    """Return the usual port, or 0 for any if it is taken."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind(("127.0.0.1", USUAL_PORT))
        except OSError:
            return 0
    return USUAL_PORT


def _print_votes(directory: RunDirectory, stages: list[Stage]) -> None:
    from ..report.review.summary import summary_lines
    from ..report.review.votes import reviewed_stages
    from ..run.journal import Journal
    from ..run.reviews import votes_on

    entries, known = Journal(directory.journal).entries(), reviewed_stages(directory)
    for stage in stages:
        people, judge = (votes_on(entries, stage, by_judge=by_judge) for by_judge in (False, True))
        for line in summary_lines(stage.label, known[stage], people, judge):
            print(printable(line))
    print(f"Pages: {', '.join(shown_path(directory.review_page(stage)) for stage in stages)}")
