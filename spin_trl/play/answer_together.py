"""Lets a model answer all its prompts in one start of the engine, if that generates in processes of its own.

A server takes a minute or more to start, and has to end before the model is measured here. So before that, the model answers
the held-out prompts, those of the retention set, and perhaps training prompts ahead, each into its own store, where the
phases that need the answers find them.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from ..errors import DivergedError
from ..generation.completions.failures import CompletionsError
from ..generation.engine import UnansweredError
from ..run.journal import RETENTION, Step
from ..run.run import Run
from ..run.stage import Stage
from .ahead import answer_ahead, iteration_ahead
from .answering.at_hand import ModelAtHand, at_hand
from .answering.into_store import answer_into

logger = logging.getLogger(__name__)


@dataclass
class AnswerSeconds:
    """The seconds in which a model answered prompts, by whose time they count as.

    Attributes:
        held_out: answers that the evaluation measures.
        ahead: answers for the next iteration's generate phase.
    """

    held_out: float = 0.0
    ahead: float = 0.0


def answer_together(run: Run, stage: Stage) -> AnswerSeconds:
    """Let a stage's model answer the held-out prompts and all others that it will be asked, in one start of the engine.

    Nothing happens if the engine generates in this process, or if there are no others: then the phase that needs the
    answers has them generated.

    Args:
        run: the run.
        stage: stage of the model, which has not been evaluated.
    """
    took = AnswerSeconds()
    with (
        at_hand(run, run.model_of(stage)) as model,
        contextlib.suppress(DivergedError),
    ):  # the evaluation finds it again
        others = _others(run, stage, model, took) if model.is_served else []
        if others:
            folder = run.directory.held_out(stage)
            took.held_out += answer_measured(run, model, run.rows(held_out=True), stage, folder, "held-out")
        for answer in others:
            answer()
    return took


def _others(run: Run, stage: Stage, model: ModelAtHand, took: AnswerSeconds) -> list[Callable[[], None]]:
    """Return functions that let the model answer what it will be asked in addition to the held-out prompts."""
    found: list[Callable[[], None]] = []
    retained, iteration = run.measured_rows(RETENTION), iteration_ahead(run, stage)

    def answer_retained() -> None:
        folder = run.directory.measured_on(stage, RETENTION)
        answer_measured(run, model, retained, stage, folder, RETENTION)

    def answer_training() -> None:
        assert iteration is not None
        try:
            took.ahead += answer_ahead(run, model, stage, iteration)
        except (UnansweredError, CompletionsError) as error:  # the evaluation has its answers, and may end the run
            logger.warning("Not all prompts of iteration %d were answered ahead. %s", iteration, error)

    if run.retain_scorer is not None and len(retained) and run.done(Step.RETENTION, stage) is None:
        found.append(answer_retained)
    if iteration is not None:
        found.append(answer_training)
    return found


def answer_measured(run: Run, model: ModelAtHand, rows: Dataset, stage: Stage, folder: Path, kind: str) -> float:
    """Let a model answer prompts on which it is measured, sampled and, with `evaluate_greedy`, greedily.

    Args:
        run: the run.
        model: the model.
        rows: prepared rows.
        stage: stage of the model.
        folder: folder of the measurement.
        kind: what the prompts are called in messages: held-out, test, retention.

    Returns:
        Seconds that the generation itself took.
    """
    # Every model answers with the seeds and settings of iteration 0, so that differences come from the models.
    description = f"{stage}: {kind} prompts"
    seconds = answer_into(run, model, rows, folder / "sampled", 0, description, num_generations=1)
    if run.play.evaluate_greedy:
        asked = folder / "greedy", 0, f"{description}, greedy"
        seconds += answer_into(run, model, rows, *asked, what="greedy answers", temperature=0.0, num_generations=1)
    return seconds
