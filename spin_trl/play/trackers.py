"""Reports held-out figures to the trackers in `report_to`, through accelerate's trackers.

Training curves are reported by Trainer's callbacks, with a tracker run per iteration. The held-out figures go to a separate
tracker run, whose step is the number of iterations played: 0 is the start. Those on the test set go to another, and
the win rates in people's votes to a third.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from ..evaluation.figures import REVIEWED
from ..files import short_digest
from ..report.record import read_record, read_shown_figures
from ..run.journal import TEST, Step
from ..run.reviews import review_figures, reviews_in, votes_on
from ..run.run import Run
from ..run.stage import DPO, START, Stage

logger = logging.getLogger(__name__)

TRACKER_PREFIX, REVIEWS = "held-out", "review"

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
    reached = [*known, *_send_figures(run, wanted, values, TRACKER_PREFIX)]
    if reached != known:
        run.journal.append(Step.TRACK, stage, to=reached)


def track_tests(run: Run) -> None:
    """Report the figures of all final models on the test set, as `test/STAGE/FIGURE`, to a tracker run of their own.

    Each tracker gets them once, and again if further models are measured. The step is the number of models.
    """
    tested = read_record(run.directory).tested
    entry, stages = run.done(Step.TRACK, TEST) or {}, [stage.name for stage in tested]
    known = entry.get("to", []) if entry.get("stages") == stages else []
    wanted = [name for name in run.args.report_to or [] if name not in known]
    if not wanted or not tested:
        return
    figures = {
        f"{TEST}/{stage.name}/{name}": value
        for stage in tested
        for name, value in stage.test.figures.items()
        if math.isfinite(value)
    }
    reached = [*known, *_send_figures(run, wanted, {len(tested): figures}, TEST)]
    if reached != known:
        run.journal.append(Step.TRACK, TEST, to=reached, stages=stages)


def track_reviews(run: Run) -> None:
    """Report the win rates in people's votes, as `review/STAGE/previous` and so on, to a tracker run of their own.

    Each tracker gets them once, and again if there are further votes. The step is the number of votes.
    """
    votes = reviews_in(run.journal.entries())
    voted = dict.fromkeys(entry["stage"] for entry in votes)
    counts = {stage: len(votes_on(votes, stage)) + len(votes_on(votes, stage, by_judge=True)) for stage in voted}
    entry, stages = run.done(Step.TRACK, REVIEWS) or {}, [f"{stage}: {count}" for stage, count in counts.items()]
    known = entry.get("to", []) if entry.get("stages") == stages else []
    wanted = [name for name in run.args.report_to or [] if name not in known]
    figures = {
        f"{REVIEWED}{stage}/{name.removeprefix(REVIEWED)}": value
        for stage in voted
        for name, value in (review_figures(votes, stage) | review_figures(votes, stage, by_judge=True)).items()
        if math.isfinite(value)
    }
    if not wanted or not figures:
        return
    reached = [*known, *_send_figures(run, wanted, {sum(counts.values()): figures}, REVIEWS)]
    if reached != known:
        run.journal.append(Step.TRACK, REVIEWS, to=reached, stages=stages)


def _send_figures(run: Run, trackers: Sequence[str], values: Mapping[int, dict[str, float]], kind: str) -> list[str]:
    """Report figures to trackers. Return the names of those that need not be tried again.

    Args:
        run: the run.
        trackers: names of the trackers.
        values: figures by step.
        kind: kind of the figures, the end of the tracker run's name.
    """
    reached = []
    for name in trackers:
        if name not in LOGGER_TYPE_TO_CLASS:
            logger.warning("Figures can't be reported to %s: accelerate has no tracker for it.", name)
            reached.append(name)  # warn once
            continue
        try:
            tracker = _tracker(run, name, kind)
            tracker.start()
            for step, figures in values.items():
                tracker.log(figures, step=step)
            tracker.finish()
            reached.append(name)
        except Exception as error:  # no error from a tracker's client may end the run
            logger.warning("The %s figures were not reported to %s: %s", kind, name, error)
    return reached


def _tracked_values(run: Run, stages: dict[str, Stage]) -> dict[str, float]:
    """Return the finite figures of stages, by prefix and name."""
    return {
        f"{prefix}/{name}": value
        for prefix, stage in stages.items()
        for name, value in read_shown_figures(run.directory, stage).items()
        if math.isfinite(value)
    }


def _tracker(run: Run, name: str, kind: str) -> GeneralTracker:
    run_name = f"{run.tracker_name}-{kind}"
    # The same whenever the run is resumed, but different for a new run in the same folder.
    began = run.journal.entries()[0]["time"]
    of_kind = "" if kind == TRACKER_PREFIX else f" {kind}"
    run_id = short_digest(f"{run.directory.path.resolve()} {began}{of_kind}")
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
        return tracker(kind, str(run.directory.own("tensorboard" if is_board else f"trackers/{name}")))
    return tracker(run_name)
