"""Resumes diverged training from a checkpoint with half the learning rate (`on_nan: lower`), as recorded in the journal.

Training resumes as after an interrupt: from the last complete checkpoint, or from the start of the iteration. So a run that
is interrupted later still arrives at the same result.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..config.iteration import LOWER_RATE, SPINConfig
from ..config.paths import output_folder
from ..config.sft import SupervisedConfig
from ..errors import DivergedError
from ..files import remove
from ..run.journal import Entry, Step, lowered
from ..run.run import Run, free_memory
from ..training.collapse import Collapse
from ..training.non_finite import SCALER_SKIPPED, SKIPPED, going_back, steps_left_out
from ..training.whole_checkpoints import newest_checkpoint

logger = logging.getLogger(__name__)

MOST_LOWERED = 2
"""Maximum number of times that an iteration's learning rate is halved."""

Trained = TypeVar("Trained")

OfTraining = TypeVar("OfTraining", SPINConfig, SupervisedConfig)
"""OfTraining of training with `on_nan`: of an iteration, or those that [`supervised_config`] makes of them."""


def lowering(run: Run, stage: str, args: OfTraining, attempt: Callable[[OfTraining], Trained]) -> Trained:
    """Train a stage; if it diverges and `on_nan` is `lower`, resume from the last checkpoint with half the learning rate.

    Args:
        run: the run.
        stage: stage to train.
        args: settings of the stage, with its original learning rate.
        attempt: function that trains with the given settings, from the newest checkpoint in their `output_dir`, if any.

    Returns:
        The return value of `attempt`.

    Raises:
        DivergedError: if the loss or the gradient is not finite and there is nothing left to try.
    """
    while True:
        before = lowered(run.journal.entries(), stage)
        now = copy.copy(args)
        now.learning_rate *= 0.5 ** len(before)
        try:
            with going_back():
                return attempt(now)
        except DivergedError as error:
            if args.on_nan != LOWER_RATE:
                note_end(run, stage, error)
                raise
            if len(before) >= MOST_LOWERED:
                rates = ", ".join(f"{args.learning_rate * 0.5**count:g}" for count in range(len(before) + 1))
                last = DivergedError(f"{error} Learning rates tried: {rates}.", error.step, error.rows)
                note_end(run, stage, last)
                raise last from error
            reason, step = str(error), error.step or 1
        free_memory()  # nothing refers to the attempt any more
        _go_back(run, stage, now, step, reason, before)


def note_end(run: Run, stage: str, error: DivergedError) -> None:
    """Record in the journal that training has ended here, for the report and for comparisons."""
    if PartialState().is_main_process:
        run.journal.append(
            Step.DIVERGED, stage, at_step=error.step, rows=error.rows, on_nan=run.args.on_nan, reason=str(error)
        )


def _go_back(run: Run, stage: str, args: Any, step: int, reason: str, before: Sequence[Entry]) -> None:
    state, folder = PartialState(), output_folder(args)
    if state.is_main_process and before and step - 1 == before[-1]["back_to"] > 0:
        remove(folder / f"checkpoint-{step - 1}")  # it diverges again at once: try the one before it
    state.wait_for_everyone()
    checkpoint = newest_checkpoint(args)
    back_to = 0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2])
    scale = 0.5 ** (len(before) + 1)
    run.record(Step.LOWER, stage, at_step=step, back_to=back_to, lr_scale=scale, reason=reason)
    if state.is_main_process:
        where = f"step {back_to}" if back_to else "its start"
        logger.warning(
            "%s: %s Going back to %s with a learning rate of %g.", stage, reason, where, args.learning_rate / 2
        )


class AtLearningRate(TrainerCallback):
    """Callback that changes the learning rate of training that is resumed from a checkpoint.

    Args:
        learning_rate: learning rate that the schedule starts from.
    """

    def __init__(self, learning_rate: float) -> None:
        self._learning_rate = learning_rate

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **of: Any) -> None:
        """Change the learning rates of the optimiser and the schedule, which have been loaded by now."""
        optimizer, schedule = of["optimizer"], of["lr_scheduler"]
        known = schedule.state_dict()
        scale = self._learning_rate / known["base_lrs"][0]
        for group in optimizer.param_groups:
            group |= {name: group[name] * scale for name in ("lr", "initial_lr")}
        rates = {name: [rate * scale for rate in known[name]] for name in ("base_lrs", "_last_lr")}
        schedule.load_state_dict(known | rates)


def lowered_before(run: Run, stage: str, args: TrainingArguments) -> list[TrainerCallback]:
    """Return the callback for training that resumes with a lower learning rate than its checkpoint, if that is the case."""
    return [AtLearningRate(args.learning_rate)] if lowered(run.journal.entries(), stage) else []


def faults(history: Sequence[dict[str, Any]], collapses: Sequence[Collapse] = ()) -> dict[str, Any]:
    """Return the journal's entries for skipped steps and a collapse; empty if there were none.

    Args:
        history: the trainer's log history.
        collapses: collapses that the trainer has detected.
    """
    skipped = [{"step": entry["step"], "rows": entry[SKIPPED]} for entry in steps_left_out(history, SKIPPED)]
    by_scaler = len(steps_left_out(history, SCALER_SKIPPED))
    collapse = str(collapses[-1]) if collapses else None
    found = {"skipped": skipped, "skipped_by_scaler": by_scaler, "collapse": collapse}
    return {name: value for name, value in found.items() if value}
