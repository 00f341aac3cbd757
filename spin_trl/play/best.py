"""The best iteration so far: always known, and what a run delivers. A worse one never takes its place."""

from __future__ import annotations

import os
import shutil
from typing import Any

from ..config.loop import SelfPlayConfig
from ..evaluation.selection import Metric, best_of
from ..files import write_json
from ..report.record import read_record
from ..run.directory import RunDirectory
from ..run.journal import Step
from ..run.run import Run
from ..run.stage import Stage


def metric_of(play: SelfPlayConfig) -> Metric:
    """By what a run with these settings chooses its best iteration."""
    return Metric(
        play.metric_for_best_iteration,
        bool(play.greater_is_better_iteration),
        play.min_improvement,
        play.significant_improvement,
    )


def deliver_best(run: Run, iteration: int) -> dict[str, Any]:
    """Write down which stage is the best so far, and let `best` in the run directory point to its model.

    Args:
        run: the run.
        iteration: up to which the start and the iterations are candidates; later ones that an earlier call has played
            count, too. Without held-out data the newest iteration counts as the best.

    Returns:
        `stage`, `model` (folder or Hub name), `metric` and `value`.
    """
    while run.done(Step.TRAIN, Stage.of(iteration + 1)):
        iteration += 1
    models, metric = read_record(run.directory).candidates(iteration), metric_of(run.play)
    stage = best_of(models, metric)
    model, value = run.model_of(stage), models[stage].figures.get(metric.name)
    best = {"stage": stage, "model": model, "metric": metric.name, "value": value}
    write_json(run.directory.own("best.json"), best)
    _link_best(run.directory, model)
    return best


def _link_best(directory: RunDirectory, model: str) -> None:
    if os.path.isdir(model):
        link = directory.own("best")
        unfinished = link.with_name(".best.tmp")
        unfinished.unlink(missing_ok=True)
        # Where the directory is a link, `..` leads out of what it points to.
        unfinished.symlink_to(os.path.relpath(os.path.realpath(model), os.path.realpath(directory.path)))
        unfinished.replace(link)
    elif directory.best_link.is_symlink():
        directory.best_link.unlink(missing_ok=True)


def tidy(run: Run, iteration: int, best_stage: str) -> None:
    """Give back disk after an iteration: its checkpoints, and the models beyond `keep_iterations`.

    The best model is kept, and so is the newest, from which the next iteration starts.
    """
    shutil.rmtree(run.directory.training(Stage.of(iteration)), ignore_errors=True)
    if run.play.keep_iterations is None:
        return
    for old in range(iteration + 1 - run.play.keep_iterations):
        if Stage.of(old) != best_stage:
            shutil.rmtree(run.directory.model(Stage.of(old)), ignore_errors=True)
