"""Human review in a run: the page after an iteration's evaluation, and waiting for people's votes."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from ..config.review import GREEDY, WAIT, is_reviewed
from ..counts import counted
from ..errors import PausedError, RunDirectoryError
from ..files import write_text
from ..generation.generations import Generations
from ..generation.store import GenerationStore
from ..report.review.assignment import Assignment, read_assignment
from ..report.review.page import render_page
from ..report.review.pairs import (
    choose,
    draw_sides,
    lengths_of,
    others_of,
    page_data,
    prompts_of,
    sampled_answers,
)
from ..run.reviews import votes_on
from ..run.run import Run
from ..run.stage import START, Stage
from .gate import ends_after, votes_count
from .judge_review import let_judge_review


def hold_review(run: Run, iteration: int) -> None:
    """Write an iteration's review page if there is to be one, and let the judge compare its pairs if it is asked to.

    Args:
        run: the run.
        iteration: number of the iteration (0-based), which has been evaluated.
    """
    write_review(run, iteration)
    let_judge_review(run, iteration)


def write_review(run: Run, iteration: int) -> None:
    """Write the page on which people compare an iteration's answers, if the iteration is to be reviewed and has none yet.

    Args:
        run: the run.
        iteration: number of the iteration (0-based), which has been evaluated.
    """
    stage = Stage.of(iteration)
    is_wanted = is_reviewed(run.play, iteration, is_last=ends_after(run, iteration))
    is_written = run.directory.review_page(stage).exists() and run.directory.assignment(stage).exists()
    if is_wanted and run.directory.samples(stage).exists() and not is_written:
        make_page(run, stage)


def make_page(run: Run, stage: Stage) -> Assignment:
    """Write a stage's review page, with the answers on the sides on which an earlier page had them, if there was one.

    Args:
        run: the run.
        stage: an iteration, which has been evaluated.

    Returns:
        The assignment of the answers.

    Raises:
        RunDirectoryError: if the stage has no stored answers, or those of an earlier page are gone.
    """
    directory, play = run.directory, run.play
    if not directory.samples(stage).exists():
        raise RunDirectoryError(
            f"{stage.label} of {directory.path} has no stored answers to held-out prompts to review."
        )
    known = read_assignment(directory.assignment(stage))
    mode = play.review_answers if known is None else known.answers
    if known is None:
        against = play.reviewed_against
        keys = choose(lengths_of(directory, stage), play.review_prompts * len(against), run.args.seed)
    else:
        keys = [pair.key for pair in known.pairs]
        against = list(dict.fromkeys(pair.against for pair in known.pairs))
    prompts = prompts_of(directory, stage, keys)
    stages = others_of(against, run.decisions.opponent(stage.iteration), START)
    ours = _stored_answers(run, stage, keys, mode)
    others = {name: {} if other is None else _stored_answers(run, other, keys, mode) for name, other in stages.items()}
    if known is None:
        ordered = {key: prompts[key] for key in keys if key in prompts}
        known, data = draw_sides(directory, stage, ordered, ours, others, against, mode)
        directory.own(stage)
        known.write(directory.assignment(stage))
    else:
        data = page_data(directory, known, prompts, ours, others)
        if data["page"] != known.page:
            raise RunDirectoryError(
                f"The answers of {stage.label} are not those that its review page showed, so its votes would be for other "
                f"answers. To begin a new review, delete {directory.assignment(stage)} and the page; votes that are "
                "recorded stay."
            )
    write_text(directory.review_page(stage), render_page(data))
    return known


def _stored_answers(run: Run, stage: Stage, keys: Iterable[str], mode: str) -> dict[str, str]:
    """Return a stage's stored answers to held-out prompts."""
    if mode != GREEDY:
        return sampled_answers(run.directory, stage, keys)
    folder: Path = run.directory.held_out(stage) / GREEDY
    if not folder.exists():
        raise RunDirectoryError(
            f"{stage.label} has no greedy answers to review: set `evaluate_greedy: true` in a new run, or "
            "`review_answers: sampled`."
        )
    tokenizer, stored = run.tokenizer(), Generations.load({0: GenerationStore(folder)})
    return {key: str(tokenizer.decode(stored[key, 0, 0], skip_special_tokens=True)) for key in keys}


def check_votes(run: Run, iteration: int) -> None:
    """Raise if the run waits for people's votes on an iteration before it goes on (`review_gate: wait`).

    Args:
        run: the run.
        iteration: number of the iteration (0-based), which has been evaluated.

    Raises:
        PausedError: if there are none yet; the message says how to vote and how to go on.
    """
    stage = Stage.of(iteration)
    if run.play.review_gate != WAIT or not votes_count(run, iteration):
        return
    if not is_reviewed(run.play, iteration, is_last=ends_after(run, iteration)):
        return
    known = read_assignment(run.directory.assignment(stage))
    if known is None or not known.pairs or votes_on(run.journal.entries(), stage):
        return
    path = shlex.quote(str(run.directory.path))
    raise PausedError(
        f"The run waits for people's votes on {counted(len(known.pairs), 'pair')} of answers of {stage.label} "
        f"(`review_gate: wait`). Vote in a browser: `spin-trl review {path}`. Or send "
        f"{run.directory.review_page(stage)} to the reviewers, and record the files that they save: `spin-trl review {path} "
        f"votes-*.json`. Then go on: `spin-trl run {path}`"
    )
