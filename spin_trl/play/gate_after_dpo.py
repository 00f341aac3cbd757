"""Judges the models that DPO trained on top: one that is worse than the model it started from is not delivered."""

from __future__ import annotations

from accelerate import PartialState

from ..evaluation.selection import Metric, best_of
from ..report.record import RunRecord, StageRecord, read_record
from ..run.journal import WORSE, Step
from ..run.run import Run
from ..run.stage import Stage
from .gate import comparison, metric_of


def with_dpo(record: RunRecord, newest: int, metric: Metric) -> dict[Stage, StageRecord]:
    """Return the candidates for the best model, with DPO's results that are not worse than the models they started from.

    Without figures, only DPO on the model that would be delivered otherwise is a candidate, since it was asked for.

    Args:
        record: record of the run.
        newest: newest iteration (0-based).
        metric: metric by which the best model is chosen.
    """
    models = record.candidates(newest)
    is_measured = any(model.value(metric.name) is not None for model in models.values())
    best = best_of(models, metric) if models else None
    for stage in record.after_dpo:
        origin = record.stage(stage.name.origin)
        is_worse = stage.has_diverged or (origin is not None and metric.regresses(stage, origin))
        if not is_worse and (is_measured or stage.name.origin == best):
            models[stage.name] = stage
    return models


def settle_dpo(run: Run, stage: Stage) -> str | None:
    """Judge the model that DPO trained, and record the decision once.

    Returns:
        Why it is not delivered, if it is worse than the model that it started from; None otherwise, or if that is known.
    """
    state, record, metric = PartialState(), read_record(run.directory), metric_of(run.play)
    result, origin, known = record.stage(stage), record.stage(stage.origin), record.decisions.on(stage)
    state.wait_for_everyone()  # all must have read the journal before one writes
    if result is None or origin is None or known:
        return None
    reason = None
    if result.has_diverged:
        reason = f"{stage} is not delivered: the logits are NaN: training diverged."
    elif metric.regresses(result, origin):
        reason = f"{stage} is not delivered: it is worse than {stage.origin}: {comparison(metric, result, origin)}."
    decision = WORSE if reason is not None else "improved" if metric.improves(result, origin) else "continued"
    if state.is_main_process:
        run.journal.append(
            *(Step.GATE, stage),
            decision=decision,
            best=best_of(with_dpo(record, max(run.directory.iterations(), default=-1), metric), metric),
            opponent=stage.origin,
            lr_scale=1.0,
            reason=reason,
        )
    state.wait_for_everyone()
    return reason
