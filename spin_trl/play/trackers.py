"""Reports held-out figures to the trackers in `report_to`, through accelerate's trackers.

Training curves are reported by Trainer's callbacks, with a tracker run per iteration. The held-out figures go to a separate
tracker run, whose step is the number of iterations played: 0 is the start.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Iterator, Mapping
from typing import Any

from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from ..files import short_digest
from ..report.record import read_shown_figures
from ..run.journal import Step
from ..run.run import Run
from ..run.stage import DPO, START, Stage

logger = logging.getLogger(__name__)

TRACKER_PREFIX = "held-out"

TENSORBOARD_DIRECTORY = "TENSORBOARD_LOGGING_DIR"
"""Variable for where transformers' callback writes; by default the checkpoints' folder, which is deleted with them."""


@contextlib.contextmanager
def training_logs(run: Run, stage: str) -> Iterator[None]:
    """Keep a stage's training curves separate from other stages', and keep TensorBoard's after the checkpoints are deleted.

    A TensorBoard directory chosen by the user is not changed. W&B's callback writes to whichever run is open, so the run of
    the previous training is closed; runs opened by others are left open.
    """
    if "wandb" in (run.args.report_to or []):
        import wandb

        if wandb.run is not None and str(wandb.run.name).startswith(f"{run.tracker_name}-"):
            wandb.finish()
    chosen = TENSORBOARD_DIRECTORY in os.environ
    if not chosen:
        if "tensorboard" in (run.args.report_to or []) and PartialState().is_main_process:
            run.directory.own("tensorboard")
        os.environ[TENSORBOARD_DIRECTORY] = str(run.directory.tensorboard / stage)
    try:
        yield
    finally:
        if not chosen:
            del os.environ[TENSORBOARD_DIRECTORY]


def track(run: Run, iteration: int) -> None:
    """Report the figures of an iteration and of its baseline arms, and with the first iteration also those of the start.

    Each tracker gets them once, even if the run is interrupted. If a tracker fails, a warning is logged, and it is tried
    again when the run is resumed: its server may be down, which is no reason to lose a run.

    Args:
        run: the run.
        iteration: number of the iteration (0-based), which has been evaluated.
    """
    arms = {f"baseline/{arm}": Stage.of(iteration, arm) for arm in run.arms}
    stages: dict[int, dict[str, Stage]] = {0: {TRACKER_PREFIX: START}} if iteration == 0 else {}
    _report_once(run, Stage.of(iteration), stages | {iteration + 1: {TRACKER_PREFIX: Stage.of(iteration)} | arms})


def track_dpo(run: Run) -> None:
    """Report the figures of all results of DPO, under their own names, at the step of one more iteration."""
    for stage in run.directory.stages():
        if stage.arm == DPO:
            _report_once(run, stage, {stage.iteration + 1: {str(stage): stage}})


def _report_once(run: Run, stage: Stage, stages: Mapping[int, dict[str, Stage]]) -> None:
    """Report the figures of stages, by step and prefix, once; `stage` is the one that this is recorded for."""
    known = (run.done(Step.TRACK, stage) or {}).get("to", [])
    wanted = [name for name in run.args.report_to or [] if name not in known]
    if not wanted or not run.directory.metrics(stage).exists():
        return
    values = {step: _tracked_values(run, of_step) for step, of_step in stages.items()}
    reached = list(known)
    for name in wanted:
        if name not in LOGGER_TYPE_TO_CLASS:
            logger.warning("Held-out figures can't be reported to %s: accelerate has no tracker for it.", name)
            reached.append(name)  # warn once per stage
            continue
        try:
            tracker = _tracker(run, name)
            tracker.start()
            for step, figures in values.items():
                tracker.log(figures, step=step)
            tracker.finish()
            reached.append(name)
        except Exception as error:  # no error from a tracker's client may end the run
            logger.warning("Held-out figures were not reported to %s: %s", name, error)
    if reached != known:
        run.journal.append(Step.TRACK, stage, to=reached)


def _tracked_values(run: Run, stages: dict[str, Stage]) -> dict[str, float]:
    """Return the finite figures of stages, by prefix and name."""
    return {
        f"{prefix}/{name}": value
        for prefix, stage in stages.items()
        for name, value in read_shown_figures(run.directory, stage).items()
        if math.isfinite(value)
    }


def _tracker(run: Run, name: str) -> GeneralTracker:
    run_name = f"{run.tracker_name}-{TRACKER_PREFIX}"
    # The same whenever the run is resumed, but different for a new run in the same folder.
    began = run.journal.entries()[0]["time"]
    run_id = short_digest(f"{run.directory.path.resolve()} {began}")
    tracker: type[Any] = LOGGER_TYPE_TO_CLASS[name]
    if name == "wandb":
        project = os.environ.get("WANDB_PROJECT", "huggingface")  # as transformers' callback
        return tracker(project, name=run_name, id=run_id, resume="allow", reinit="create_new")
    run_name += f"-{run_id[:6]}"  # other trackers identify a run only by its name
    if name == "trackio":
        space = {"space_id": run.args.trackio_space_id} if run.args.trackio_space_id else {}
        return tracker(run.args.project, name=run_name, resume="allow", **space)
    if tracker.requires_logging_directory:
        is_board = name == "tensorboard"
        return tracker(TRACKER_PREFIX, str(run.directory.own("tensorboard" if is_board else f"trackers/{name}")))
    return tracker(run_name)
