"""Fits a stage with a SPINTrainer: from its newest checkpoint or its start, and with an entry in the journal."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from transformers import PrinterCallback

from ..config.iteration import SPINConfig
from ..run.compute import Compute
from ..run.journal import Step
from ..run.progress import ReportSteps
from ..run.run import Run, since
from ..run.stage import Stage
from ..training.trainer import SPINTrainer
from ..training.whole_checkpoints import newest_checkpoint
from .lower import faults, lowered_before
from .trackers import training_logs

Fitted = TypeVar("Fitted", bound=SPINTrainer)


def fit(run: Run, stage: Stage, args: SPINConfig, make: Callable[[], Fitted]) -> tuple[Fitted, float]:
    """Train a stage from its newest checkpoint or from its start.

    Args:
        run: the run.
        stage: stage to train.
        args: settings of its training.
        make: function that returns its trainer.

    Returns:
        The trainer, and the seconds that it trained for.
    """
    with training_logs(run, stage):
        trainer = make()
    trainer.remove_callback(PrinterCallback)  # the loop prints a summary; progress bars and trackers stay
    trainer.add_callback(ReportSteps(run.progress))
    for callback in lowered_before(run, stage, args):
        trainer.add_callback(callback)
    # If no checkpoint is complete, or it was written by a different number of processes, training starts over.
    checkpoint = newest_checkpoint(args)
    started = time.monotonic()
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint is not None else None)
    return trainer, since(started)


def record_fit(
    run: Run,
    stage: Stage,
    trainer: SPINTrainer,
    found: Mapping[str, Any],
    compute: Compute,
    logged: Sequence[str],
    files: Mapping[str, Any],
    times: Mapping[str, float],
) -> None:
    """Record in the journal that a stage has been trained and saved.

    Args:
        run: the run.
        stage: the stage.
        trainer: its trainer.
        found: values that only this kind of training has.
        compute: tokens that the training ran over.
        logged: names of the logged figures whose first and last values are kept.
        files: the model's files, as [`recorded`] returns them.
        times: `seconds` of the whole phase, and `work_seconds` of the training.
    """
    log = [entry for entry in trainer.state.log_history if "loss" in entry]
    run.record(
        Step.TRAIN,
        stage,
        **times,
        steps=trainer.state.global_step,
        **found,
        **compute.as_entry(),
        first={name: log[0][name] for name in logged if name in log[0]} if log else {},
        last={name: log[-1][name] for name in logged if name in log[-1]} if log else {},
        **faults(trainer.state.log_history, trainer.collapses()),
        files=files,
    )
