"""Ends baseline arms whose training diverges: they have no model to continue from, and the run continues without them."""

from __future__ import annotations

import logging
import shutil

from accelerate import PartialState

from ..errors import BrokenWeightsError, DivergedError
from ..report.formats import capitalised
from ..report.record import read_stage
from ..run.journal import Entry, Step, end_of_arm
from ..run.run import Run
from ..run.stage import BEST_SFT, Stage
from .lower import note_end

logger = logging.getLogger(__name__)


def has_ended(run: Run, stage: Stage) -> bool:
    """Return whether a baseline arm has ended at a stage or before it. With another `on_nan` it is tried again."""
    end: Entry = end_of_arm(run.journal.entries(), stage)
    return bool(end) and end.get("on_nan") == run.args.on_nan


def end_arm(run: Run, stage: Stage, error: DivergedError | BrokenWeightsError) -> None:
    """End a baseline arm because its training has diverged: record it, delete the checkpoints, and warn.

    Args:
        run: the run.
        stage: stage of the arm.
        error: error that training ended with; a [`DivergedError`] has been recorded by [`lowering`].
    """
    state = PartialState()
    if isinstance(error, BrokenWeightsError):
        # The message advises another checkpoint to start from, but this one is the arm's own.
        error = DivergedError(
            f"The model of {stage.before} has diverged: its weights hold NaN or infinity, in "
            f"{error.where}. {_rate_to_blame(run, stage.before)}"
        )
        if state.is_main_process:
            note_end(run, stage, error)
    if state.is_main_process:
        shutil.rmtree(run.directory.training(stage), ignore_errors=True)
        _warn(stage, str(error))
    state.wait_for_everyone()


def end_if_diverged(run: Run, stage: Stage) -> None:
    """End a baseline arm if the model that it has trained can't predict the held-out responses: its logits are NaN."""
    state = PartialState()
    ends = read_stage(run.directory, stage).has_diverged and not has_ended(run, stage)
    state.wait_for_everyone()  # all must have checked before one writes
    if ends and state.is_main_process:
        reason = f"The logits of its model are NaN: training has diverged. {_rate_to_blame(run, stage)}"
        note_end(run, stage, DivergedError(reason))
        _warn(stage, reason)
    state.wait_for_everyone()


def _warn(stage: Stage, reason: str) -> None:
    logger.warning(
        "%s: %s The run continues without this baseline. A resumed run trains it again only with another `on_nan`; "
        "another learning rate needs a new run.",
        capitalised(stage.label),
        reason,
    )


def _rate_to_blame(run: Run, stage: Stage) -> str:
    """Name the likely cause of a baseline's divergence: its learning rate."""
    rate = (run.done(Step.TRAIN, stage) or {}).get("learning_rate")
    setting = "sft_learning_rate" if stage.arm == BEST_SFT else "baseline_learning_rate"
    return f"Likely cause: `{setting}`{'' if rate is None else f' ({rate:g})'} is too large."
