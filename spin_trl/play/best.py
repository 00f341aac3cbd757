"""The best model so far is what a run delivers: `best.json` names it, and `best` in the run directory points to it.

It is always known, and a worse model never replaces it.
"""

from __future__ import annotations

import os
import shutil
from typing import Any

from ..config.dpo_on_top import named_iterations
from ..config.review import WAIT
from ..evaluation.selection import best_of
from ..files import give_back, write_json
from ..report.record import read_record
from ..run.directory import RunDirectory
from ..run.journal import Step
from ..run.run import Run
from ..run.stage import DPO, START, Stage
from .gate import metric_of
from .gate_after_dpo import with_dpo


def deliver_best(run: Run, iteration: int) -> dict[str, Any]:
    """Record the best stage so far, make `best` in the run directory point to its model, and free disk space.

    Args:
        run: the run.
        iteration: last iteration played. Candidates are the start and the iterations up to this one, and any later ones that
            an earlier call has played. Without held-out data the newest iteration counts as the best.

    Returns:
        `stage`, `model` (folder or Hub name), `metric` and `value`. If no model has the metric, the last two are None and
        the stage is the newest one that has not diverged.
    """
    newest = iteration
    while run.done(Step.TRAIN, Stage.of(newest + 1)):
        newest += 1
    metric = metric_of(run.play)
    models = with_dpo(read_record(run.directory), newest, metric)
    # Before the first iteration, a run without held-out data has not even recorded its start.
    stage = best_of(models, metric) if models else START
    model, value = run.model_of(stage), models[stage].figures.get(metric.name) if models else None
    best = {"stage": stage, "model": model, "metric": None if value is None else metric.name, "value": value}
    write_json(run.directory.own("best.json"), best)
    _link_best(run.directory, model)
    _tidy(run, iteration, stage)
    return best


def _link_best(directory: RunDirectory, model: str) -> None:
    if os.path.isdir(model):
        link = directory.own("best")
        unfinished = link.with_name(".best.tmp")
        unfinished.unlink(missing_ok=True)
        # If the directory is a symbolic link, `..` is relative to what it points to.
        unfinished.symlink_to(os.path.relpath(os.path.realpath(model), os.path.realpath(directory.path)))
        unfinished.replace(link)
    elif directory.best_link.is_symlink():
        directory.best_link.unlink(missing_ok=True)


def _tidy(run: Run, iteration: int, best_stage: str) -> None:
    """Free disk space after an iteration: delete its checkpoints, and the models beyond `keep_iterations`.

    The best model is kept, and so are the newest, which the next iteration starts from, those that DPO starts from, and the
    one that becomes the best if people reject the newest iteration.
    """
    shutil.rmtree(run.directory.training(Stage.of(iteration)), ignore_errors=True)
    old = range(iteration + 1 - (run.play.keep_iterations or 0))
    if run.play.keep_iterations is None or not old:
        return
    for_dpo = {Stage.of(number) for number in named_iterations(run.play)} | {
        stage.origin for stage in run.directory.stages() if stage.arm == DPO
    }
    record, metric = read_record(run.directory), metric_of(run.play)
    kept = {best_stage, *for_dpo, best_of(record.candidates(iteration), metric)}
    if run.play.review_gate == WAIT:
        kept |= {best_of(record.candidates(iteration - 1), metric)}
    for stage in map(Stage.of, old):
        if stage not in kept:
            give_back(run.directory.model(stage))
