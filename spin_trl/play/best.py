"""The best iteration so far: always known, and what a run delivers. A worse one never takes its place."""

from __future__ import annotations

import os
import shutil
from typing import Any

from ..files import read_json, write_json
from .directory import START, RunDirectory, iteration_stage
from .run import Run


def choose_best(figures: dict[str, dict[str, float]], metric: str, *, greater_is_better: bool) -> str | None:
    """The stage with the best figure; among equals the earliest, which cost least.

    Args:
        figures: held-out figures by stage, in the order in which the stages were played.
        metric: by which to choose.
        greater_is_better: whether more is better.

    Returns:
        Name of the stage, or None if none has the figure.
    """
    best: str | None = None
    for stage, found in figures.items():
        value = found.get(metric)
        if value is None or value != value:
            continue
        if best is None or (value > figures[best][metric] if greater_is_better else value < figures[best][metric]):
            best = stage
    return best


def deliver_best(run: Run, figures: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Write down which stage is the best so far, and let `best` in the run directory point to its model.

    Args:
        run: the run.
        figures: held-out figures of the start and of the iterations up to this one; later ones that an earlier call has
            played count, too. Without held-out data the newest iteration counts as the best.

    Returns:
        `stage`, `model` (folder or Hub name), `metric` and `value`.
    """
    metric = run.play.metric_for_best_iteration
    figures = figures | _played_before(run, len(figures) - 1)
    stage = choose_best(figures, metric, greater_is_better=bool(run.play.greater_is_better_iteration))
    if stage is None:
        stage = list(figures)[-1]
    model = run.start_model if stage == START else str(run.directory.model(stage))
    best = {"stage": stage, "model": model, "metric": metric, "value": figures[stage].get(metric)}
    write_json(run.directory.best, best)
    _link(run.directory, model)
    return best


def _played_before(run: Run, first: int) -> dict[str, dict[str, float]]:
    """Figures of the iterations from `first` on that the journal knows."""
    figures = {}
    while run.done("train", iteration_stage(first)):
        figures[iteration_stage(first)] = read_json(run.directory.metrics(iteration_stage(first))) or {}
        first += 1
    return figures


def _link(directory: RunDirectory, model: str) -> None:
    unfinished = directory.best_link.with_name(".best.tmp")
    unfinished.unlink(missing_ok=True)
    if os.path.isdir(model):
        unfinished.symlink_to(os.path.relpath(model, directory.path))
        unfinished.replace(directory.best_link)
    else:
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
