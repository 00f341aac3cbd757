"""The judge of a run, and the permission for its scorers."""

from __future__ import annotations

import dataclasses
import functools
import logging

from accelerate import PartialState

from ..config.loop import SelfPlayConfig
from ..config.review import is_reviewed
from ..evaluation.scoring import JUDGE, Permission
from ..judging.judge import Judge
from ..judging.scorer import JudgeScorer
from ..run.contents import JUDGE_FILE
from ..run.directory import RunDirectory
from ..run.journal import RETENTION, TEST
from ..run.run import Run, permission_of

_MODELS_TESTED = 2
"""Models that are measured on the test set at least: the start and the best."""

logger = logging.getLogger(__name__)


def judge_of(play: SelfPlayConfig, directory: RunDirectory) -> Judge:
    """Return the judge that the settings of a run describe. Its replies are kept in the run directory.

    Args:
        play: settings of the loop.
        directory: run directory.

    Raises:
        RecipeError: if they describe none, its address may not be asked, or its rubric can't be read.
    """
    judge = Judge.of(play, lambda: directory.own(JUDGE_FILE))
    judge.processes, judge.announce = lambda: PartialState().num_processes, _announce
    return judge


def whole_permission(play: SelfPlayConfig, directory: RunDirectory) -> Permission:
    """Return what the settings of a run allow to scorers, with its judge, which all scorers share.

    Args:
        play: settings of the loop.
        directory: run directory.
    """
    make = functools.cache(lambda: JudgeScorer(judge_of(play, directory)))
    return dataclasses.replace(permission_of(play), make_judge=make)


def questions_of(run: Run) -> int:
    """Return about how many questions a run asks its judge: those on all stages, as far as they are planned.

    Args:
        run: the run, with its rows prepared.
    """
    play = run.play
    stages = play.num_iterations * (1 + len(run.arms)) + 1 + run.sft_first
    asked = 0
    if JUDGE in (play.scorer or []):
        asked += stages * len(run.rows(held_out=True)) + _MODELS_TESTED * len(run.measured_rows(TEST))
    if JUDGE in (play.retain_scorer or []):
        asked += stages * len(run.measured_rows(RETENTION))
    asked *= 2 if play.evaluate_greedy else 1
    if play.judge_reviews:
        last = play.num_iterations - 1
        reviewed = sum(is_reviewed(play, number, is_last=number == last) for number in range(play.num_iterations))
        pairs = min(play.review_prompts * len(play.reviewed_against), len(run.rows(held_out=True)))
        asked += 2 * pairs * reviewed  # in both orders
    return asked


def judge_in_words(run: Run) -> str:
    """Return where a run's answers are sent to be judged, and whether the caps leave enough for all of them.

    Args:
        run: the run, with its rows prepared and a judge.
    """
    said, needed = judge_of(run.play, run.directory).described(), questions_of(run)
    if needed > run.play.judge_max_requests:
        said += (
            f" It takes about {needed:,} requests to judge all answers, so the last ones will not be judged: raise "
            "`judge_max_requests`, or hold out fewer prompts (`held_out_max`)."
        )
    return said


def _announce(sentence: str) -> None:
    if PartialState().is_main_process:
        logger.warning(sentence)
