"""The best iteration so far: always known, and what a run delivers. A worse one never takes its place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import Any

from ..evaluation.selection import Measured, Metric, choose_best
from ..files import read_json, write_json
from ..run.directory import START, RunDirectory, iteration_stage
from ..run.run import Run


def measured(run: Run, iteration: int) -> dict[str, Measured]:
    """What was measured of the start and of the iterations up to this one: the candidates for the best."""
    stages = [START, *(iteration_stage(t) for t in range(iteration + 1))]
    return {
        stage: Measured(read_json(run.directory.metrics(stage)) or {}, read_json(run.directory.values(stage)) or {})
        for stage in stages
    }


def metric_of(run: Run) -> Metric:
    """By what the run chooses its best iteration."""
    play = run.play
    return Metric(
        play.metric_for_best_iteration,
        bool(play.greater_is_better_iteration),
        play.min_improvement,
        play.significant_improvement,
    )


def best_of(models: Mapping[str, Measured], metric: Metric) -> str:
    """The best model; if none has the figure, the newest, unless its training has diverged.

    Args:
        models: by stage, in the order in which they were made.
        metric: by which to choose.
    """
    sound = [stage for stage, model in models.items() if not model.has_diverged]
    return choose_best(models, metric) or (sound or list(models))[-1]


def deliver_best(run: Run, iteration: int) -> dict[str, Any]:
    """Write down which stage is the best so far, and let `best` in the run directory point to its model.

    Args:
        run: the run.
        iteration: up to which the start and the iterations are candidates; later ones that an earlier call has played
            count, too. Without held-out data the newest iteration counts as the best.

    Returns:
        `stage`, `model` (folder or Hub name), `metric` and `value`.
    """
    while run.done("train", iteration_stage(iteration + 1)):
        iteration += 1
    models, metric = measured(run, iteration), metric_of(run)
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
    shutil.rmtree(run.directory.training(iteration_stage(iteration)), ignore_errors=True)
    if run.play.keep_iterations is None:
        return
    for old in range(iteration + 1 - run.play.keep_iterations):
        if iteration_stage(old) != best_stage:
            shutil.rmtree(run.directory.model(iteration_stage(old)), ignore_errors=True)
