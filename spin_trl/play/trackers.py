"""Hands held-out figures to the trackers of `report_to`, through accelerate's own trackers.

Training curves go there by Trainer's callbacks, a tracker run for each iteration. The figures between the iterations are a
run of their own beside them, with the iterations played as its steps: 0 is the start.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Iterator
from typing import Any

from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from ..files import short_digest
from ..report.record import read_figures
from ..run.journal import Step
from ..run.run import Run
from ..run.stage import START, Stage

logger = logging.getLogger(__name__)

TRACKER_PREFIX = "held-out"

TENSORBOARD_DIRECTORY = "TENSORBOARD_LOGGING_DIR"
"""Where transformers' callback writes; by default into the checkpoints' folder, which goes when an iteration is done."""


@contextlib.contextmanager
def training_logs(run: Run, stage: str) -> Iterator[None]:
    """Keep the curves of a stage's training apart from others', and TensorBoard's beyond its checkpoints.

    TensorBoard's place stays where it has been chosen. W&B's callback writes into whichever run is open; the one of the
    training before is closed, but none that was opened by others.
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
    """Report the figures of an iteration and of the baseline arms beside it, and before the first one the start's.

    Each tracker gets them once, whatever the run was interrupted by. One that fails is warned of, and tried again when the
    run is continued: its server may be away, which is no reason to lose a run.

    Args:
        run: the run.
        iteration: 0-based; it has been evaluated.
    """
    stage = Stage.of(iteration)
    known = (run.done(Step.TRACK, stage) or {}).get("to", [])
    wanted = [name for name in run.args.report_to or [] if name not in known]
    if not wanted or not run.directory.metrics(stage).exists():
        return
    arms = {f"baseline/{arm}": Stage.of(iteration, arm) for arm in run.arms}
    values = {0: _tracked_values(run, {TRACKER_PREFIX: START})} if iteration == 0 else {}
    values[iteration + 1] = _tracked_values(run, {TRACKER_PREFIX: stage} | arms)
    reached = list(known)
    for name in wanted:
        if name not in LOGGER_TYPE_TO_CLASS:
            logger.warning("Held-out figures can't be reported to %s: accelerate has no tracker for it.", name)
            reached.append(name)  # said once an iteration
            continue
        try:
            tracker = _tracker(run, name)
            tracker.start()
            for step, figures in values.items():
                tracker.log(figures, step=step)
            tracker.finish()
            reached.append(name)
        except Exception as error:  # whatever a tracker's client raises, the run is worth more
            logger.warning("Held-out figures were not reported to %s: %s", name, error)
    if reached != known:
        run.journal.append(Step.TRACK, stage, to=reached)


def _tracked_values(run: Run, stages: dict[str, Stage]) -> dict[str, float]:
    """Figures of stages, by prefix and name; what is no number is left out."""
    return {
        f"{prefix}/{name}": value
        for prefix, stage in stages.items()
        for name, value in read_figures(run.directory, stage).items()
        if math.isfinite(value)
    }


def _tracker(run: Run, name: str) -> GeneralTracker:
    run_name = f"{run.tracker_name}-{TRACKER_PREFIX}"
    # The same in every session of a run, and another one for a run that begins anew in the same folder.
    began = run.journal.entries()[0]["time"]
    run_id = short_digest(f"{run.directory.path.resolve()} {began}")
    tracker: type[Any] = LOGGER_TYPE_TO_CLASS[name]
    if name == "wandb":
        project = os.environ.get("WANDB_PROJECT", "huggingface")  # as transformers' callback
        return tracker(project, name=run_name, id=run_id, resume="allow", reinit="create_new")
    run_name += f"-{run_id[:6]}"  # other trackers know a run by its name alone
    if name == "trackio":
        space = {"space_id": run.args.trackio_space_id} if run.args.trackio_space_id else {}
        return tracker(run.args.project, name=run_name, resume="allow", **space)
    if tracker.requires_logging_directory:
        is_board = name == "tensorboard"
        return tracker(TRACKER_PREFIX, str(run.directory.own("tensorboard" if is_board else f"trackers/{name}")))
    return tracker(run_name)
