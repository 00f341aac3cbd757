"""Training that has diverged goes back and on with half the learning rate (`on_nan: lower`), as the journal says.

It is taken up as after an interrupt, from the last whole checkpoint or from the start of the iteration. So a run that is
interrupted later goes on to the same result.
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
from ..errors import DivergedError
from ..files import remove
from ..run.journal import Entry, Step, lowered
from ..run.run import Run, free_memory
from ..training.collapse import Collapse
from ..training.non_finite import SCALER_SKIPPED, SKIPPED, going_back, steps_left_out
from ..training.trainer import newest_checkpoint

logger = logging.getLogger(__name__)

MOST_LOWERED = 2
"""Times that the learning rate of an iteration is halved."""

Trained = TypeVar("Trained")


def lowering(run: Run, stage: str, args: SPINConfig, attempt: Callable[[SPINConfig], Trained]) -> Trained:
    """Train a stage; where that diverges and `on_nan` is `lower`, again from the last checkpoint, with half the rate.

    Args:
        run: the run.
        stage: that is trained.
        args: its settings, with the learning rate that it begins with.
        attempt: trains with the settings that it gets, from the newest checkpoint in their `output_dir`, if there is one.

    Returns:
        What `attempt` does.

    Raises:
        DivergedError: the loss or the gradient is not finite, and nothing else is to be tried.
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
                _note_end(run, stage, args, error)
                raise
            if len(before) >= MOST_LOWERED:
                rates = ", ".join(f"{args.learning_rate * 0.5**count:g}" for count in range(len(before) + 1))
                last = DivergedError(f"{error} Learning rates of {rates} have been tried.", error.step, error.rows)
                _note_end(run, stage, args, last)
                raise last from error
            reason, step = str(error), error.step or 1
        free_memory()  # of the attempt, now that nothing refers to it
        _go_back(run, stage, now, step, reason, before)


def _note_end(run: Run, stage: str, args: SPINConfig, error: DivergedError) -> None:
    """Let the journal say that training has ended here, for the report and for comparisons."""
    if PartialState().is_main_process:
        run.journal.append(
            Step.DIVERGED, stage, at_step=error.step, rows=error.rows, on_nan=args.on_nan, reason=str(error)
        )


def _go_back(run: Run, stage: str, args: SPINConfig, step: int, reason: str, before: Sequence[Entry]) -> None:
    state, folder = PartialState(), output_folder(args)
    if state.is_main_process and before and step - 1 == before[-1]["back_to"] > 0:
        remove(folder / f"checkpoint-{step - 1}")  # it leads nowhere: the one before may
    state.wait_for_everyone()
    checkpoint = newest_checkpoint(args)
    back_to = 0 if checkpoint is None else int(checkpoint.name.rpartition("-")[2])
    scale = 0.5 ** (len(before) + 1)
    run.record(Step.LOWER, stage, at_step=step, back_to=back_to, lr_scale=scale, reason=reason)
    if state.is_main_process:
        where = f"step {back_to}" if back_to else "its start"
        logger.warning(
            "%s: %s It goes back to %s, with a learning rate of %g.", stage, reason, where, args.learning_rate / 2
        )


class AtLearningRate(TrainerCallback):
    """Lets training that is resumed go on at another learning rate than its checkpoint was written at.

    Args:
        learning_rate: from which the schedule starts.
    """

    def __init__(self, learning_rate: float) -> None:
        self._learning_rate = learning_rate

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **of: Any) -> None:
        """Change the rates of optimizer and schedule, which were loaded by now."""
        optimizer, schedule = of["optimizer"], of["lr_scheduler"]
        known = schedule.state_dict()
        scale = self._learning_rate / known["base_lrs"][0]
        for group in optimizer.param_groups:
            group |= {name: group[name] * scale for name in ("lr", "initial_lr")}
        rates = {name: [rate * scale for rate in known[name]] for name in ("base_lrs", "_last_lr")}
        schedule.load_state_dict(known | rates)


def faults(history: Sequence[dict[str, Any]], collapses: Sequence[Collapse] = ()) -> dict[str, Any]:
    """What the journal is to say of steps that were left out, and of a collapse; nothing if all went well.

    Args:
        history: what the trainer has logged.
        collapses: that it has found.
    """
    skipped = [{"step": entry["step"], "rows": entry[SKIPPED]} for entry in steps_left_out(history, SKIPPED)]
    by_scaler = len(steps_left_out(history, SCALER_SKIPPED))
    collapse = str(collapses[-1]) if collapses else None
    found = {"skipped": skipped, "skipped_by_scaler": by_scaler, "collapse": collapse}
    return {name: value for name, value in found.items() if value}
