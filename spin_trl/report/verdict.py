"""The result of a run in one sentence, for readers who read nothing else, followed by remarks.

Differences are paired, prompt by prompt. A gain or a loss is claimed only if its whole 95 % interval lies on one side of
zero.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..counts import counted, listed
from ..evaluation.figures import RETAINED, figure_of
from ..evaluation.intervals import Difference
from ..run.journal import Entry, Step, diverged, lowered, newest
from ..run.stage import BEST_SFT, DPO, Stage, arm_in_words
from .formats import capitalised
from .record import RunRecord, StageRecord, interval_of
from .supervised import ends_in_words, has_equal_compute, on_baselines, sft_in_words


def verdict(record: RunRecord) -> str:
    """Return the verdict: which model is best, how good it is, and how it compares with the start and with a baseline."""
    return capitalised(_sentence(record))


def _sentence(record: RunRecord) -> str:
    measured = _measured(record, record.self_play)
    best = record.best_stage
    if not measured:
        return _unmeasured(record)
    if best is None or not record.iterations:
        (first, *_) = measured
        value = f"{_metric_in_words(record)} {_with_interval(record, first)}"
        return f"So far only the {first.label} has been measured: {value}."
    if best.value(record.metric) is None:
        name = figure_of(record.metric).words
        return f"{_so_far(record)}the run delivers {the_stage(best)}, but its {name} was not measured."
    return _of_start(record, best) if best is record.start else _of_iteration(record, best)


def remarks(record: RunRecord) -> list[str]:
    """Return remarks on a run: why it ended early or went back, and whether a better figure than the best was rejected."""
    found = []
    if (sentence := _on_test_set(record)) is not None:
        found.append(sentence)
    if (sentence := _on_retention_set(record)) is not None:
        found.append(sentence)
    if record.best_stage is not None and not record.stopped and not record.is_finished:
        found.append(f"The run is not finished: {_iterations_played(record)}.")
    elif record.stopped and len(record.iterations) < record.planned:
        found.append(f"The run ended early: {_iterations_played(record)}.")
    if stopped := diverged(record.journal):
        found.append(f"{capitalised(Stage(stopped['stage']).label)}: {stopped.get('reason', 'training has diverged')}")
    for stage in record.iterations:
        found += [f"{capitalised(stage.label)}: {fault}." for fault in faults_in_words(record.journal, stage.name)]
        reason = record.decision(stage).get("reason")
        if reason:
            prefix = "" if stage.label in reason else f"After {stage.label}: "
            found.append(f"{prefix}{reason}")
    found += [reason] if (reason := record.untrained.get("reason")) else []
    for stage in (stage for stages in record.arms.values() for stage in stages):
        found += [f"{capitalised(stage.label)}: {fault}." for fault in faults_in_words(record.journal, stage.name)]
    found += [*sft_in_words(record), *on_baselines(record), *ends_in_words(record), *dpo_in_words(record)]
    if (sentence := _against_best_sft(record)) is not None:
        found.append(sentence)
    higher = _passed_over(record)
    if higher is not None:
        best = record.best_stage
        assert best is not None
        figure = record.form(record.metric).value(higher.value(record.metric))
        found.append(
            f"{capitalised(higher.label)} has a better figure, {figure}, but the improvement is smaller than the run "
            f"requires, so it did not replace {the_stage(best)}."
        )
    return found


def on_choice(record: RunRecord) -> str:
    """Say whether the figures of the best model are also those that it was chosen by."""
    prompts = counted(record.held_out, "held-out prompt") if record.held_out else "held-out prompts"
    said = (
        f"The best model is chosen on the same {prompts} that it is measured on, so its figures on them are slightly"
    )
    if record.tested:
        return f"{said} optimistic; those on the test set are not."
    return f"{said} optimistic: the run has no test set (`test_name`)."


def _on_test_set(record: RunRecord) -> str | None:
    """Return the best model's figure on the test set, compared with the start; None if it was not measured."""
    best, start, metric = record.best_stage, record.start, record.test_metric
    value = None if best is None else best.test.value(metric)
    if best is None or value is None:
        return None
    form, words = record.form(metric), figure_of(metric).words

    def with_interval(stage: StageRecord) -> str:
        interval, text = interval_of(stage.test, metric), form.value(stage.test.value(metric))
        return text if interval is None else f"{text} ({form.interval(*interval)})"

    said = f"On the test set ({counted(record.num_tested, 'prompt')}, used for no decision), {the_stage(best)} has "
    said += f"{words} {with_interval(best)}"
    if start is None or best is start or start.test.value(metric) is None:
        return f"{said}."
    against = None
    if metric == record.metric:
        against = _against(record, record.difference(best.test, start.test, metric), "the start")
    return f"{said}, {against}." if against is not None else f"{said}; the start has {with_interval(start)}."


def _on_retention_set(record: RunRecord) -> str | None:
    """Return how the best model's likelihood of the retention set's responses differs from the start's, or None."""
    best, start = record.best_stage, record.start
    if best is None or start is None or best is start:
        return None
    found = record.difference(best.retention, start.retention, "nll")
    if found is None:
        return None
    name = f"{RETAINED}nll"
    form, value = record.form(name).at_least(found.value), best.retention.value("nll")
    said = f"On the retention set ({counted(found.prompts, 'response')} of other tasks), {the_stage(best)} has "
    said += f"{figure_of('nll').words} {form.value(value)}"
    if found.low <= 0 <= found.high:
        interval = form.interval(found.low, found.high, "+")
        return f"{said}, not significantly different from the start ({form.difference(found.value)}, {interval})."
    direction, than = ("above", "less") if found.value > 0 else ("below", "more")
    size = f"{form.size(found.value)} {direction} the start ({form.size_interval(found)})"
    return f"{said}, {size}: these responses have become {than} likely."


def faults_in_words(journal: Sequence[Entry], stage: str) -> list[str]:
    """Describe the problems that occurred while a stage was trained, each without a final full stop."""
    found = []
    for entry in lowered(journal, stage):
        where = f"step {entry['back_to']}" if entry["back_to"] else "the start"
        found.append(
            f"training diverged at step {entry.get('at_step')} and went back to {where} with the learning rate "
            f"multiplied by {entry['lr_scale']:g} (`on_nan: lower`)"
        )
    trained = newest(journal, Step.TRAIN, stage)
    skipped, by_scaler = trained.get("skipped") or [], trained.get("skipped_by_scaler")
    if skipped:
        steps = ", ".join(str(one.get("step")) for one in skipped)
        found.append(
            f"{counted(len(skipped), 'step')} skipped because the loss or gradient was not finite: {steps} (`on_nan: skip`)"
        )
    if by_scaler:
        found.append(f"{counted(by_scaler, 'step')} skipped by the float16 gradient scaler")
    if trained.get("collapse"):
        found.append(str(trained["collapse"]))
    return found


def dpo_in_words(record: RunRecord) -> list[str]:
    """Return sentences on DPO on top: how each result differs from the model that it started from; empty without it."""
    said = []
    for stage in record.after_dpo:
        said += [f"{capitalised(stage.label)}: {fault}." for fault in faults_in_words(record.journal, stage.name)]
        origin = record.stage(stage.name.origin)
        if reason := record.decision(stage).get("reason"):
            said.append(str(reason))
            continue
        found = None if origin is None else record.difference(stage, origin, record.metric)
        against = None if origin is None else _against(record, found, the_stage(origin))
        if against is not None:
            value = f"{_metric_in_words(record)}, {_with_interval(record, stage)}"
            said.append(f"{capitalised(stage.label)}: {value}, {against}.")
    return said


def _unmeasured(record: RunRecord) -> str:
    if not record.iterations:
        return "Nothing has been measured yet."
    newest = record.iterations[-1]
    if record.held_out == 0:
        return (
            f"{_so_far(record)}{newest.label} is the newest of {counted(len(record.iterations), 'iteration')}; no "
            "prompts were held out, so it is unknown whether it is better than the start."
        )
    return f"{newest.label} has been trained, but {figure_of(record.metric).words} was not measured for any model."


def _of_iteration(record: RunRecord, best: StageRecord) -> str:
    start, gain, against = record.start, None, ""
    if start is not None and start.value(record.metric) is not None:
        gain = record.difference(best, start, record.metric)
        against = _against(record, gain, "the start") or f"compared with {_with_interval(record, start)} for the start"
    is_sure = gain is None or record.is_better(gain)
    joint = ", but" if against and not is_sure else "," if against else ""
    return (
        f"{_so_far(record)}{best.label} {_place(record, bool(is_sure))} by {_metric_in_words(record)}: "
        f"{_with_interval(record, best)}"
        f"{joint} {against}".rstrip()
        + f"{_against_baseline(record, best, gain)}."
    )


def _place(record: RunRecord, is_sure: bool) -> str:
    """Describe the rank of the best model. It is not called "the best" if it may be no better than the start."""
    best = record.best_stage
    if best is not None and best.arm == DPO:
        return "is the best model of the run" if is_sure else "has the best figure of the run"
    count = len(record.iterations)
    if _passed_over(record) is not None or _is_behind_rejected(record):
        return f"is kept as the best of {count}"
    if not is_sure:
        return "has the best figure" if count == 1 else f"has the best figure of {count}"
    return "is the best model" if count == 1 else f"is the best of {count}"


def _of_start(record: RunRecord, start: StageRecord) -> str:
    value = _with_interval(record, start)
    text = f"{_so_far(record)}no iteration has done better than the start by {_metric_in_words(record)}: {value}"
    others = _measured(record, record.iterations)
    if not others:
        return f"{text}, and no iteration was measured."
    if record.rejected:
        return _of_start_after_votes(record, start, others)
    other = _best_of(record, others)
    found = record.difference(other, start, record.metric)
    which = other.label if len(record.iterations) == 1 else f"the best of {len(record.iterations)}, {other.label},"
    against = _against(record, found, "it")
    if against is not None:
        text += f"; {which} is {against}"
        if found is not None and record.is_better(found):
            text += ", a smaller improvement than the run requires"
    else:
        text += f"; {which} has {_with_interval(record, other)}"
    return f"{text}{_against_baseline(record, start, None, record.iterations[-1].iteration)}."


def _of_start_after_votes(record: RunRecord, start: StageRecord, others: Sequence[StageRecord]) -> str:
    """Return the verdict for a run that delivers its start because people found iterations worse, whatever their figures."""
    worse = [stage for stage in record.iterations if stage.name in record.rejected]
    said = f"{_so_far(record)}the run delivers the start, because people prefer other answers to those of "
    said += f"{listed([stage.label for stage in worse], 6)}; by {_metric_in_words(record)}, the start has "
    said += _with_interval(record, start)
    parts = []
    for found in ([one for one in others if one in worse], [one for one in others if one not in worse]):
        if found:
            other = _best_of(record, found)
            against = _against(record, record.difference(other, start, record.metric), "it")
            parts.append(f"{other.label} {f'is {against}' if against else f'has {_with_interval(record, other)}'}")
    return f"{said}, and {', '.join(parts)}{_against_baseline(record, start, None, record.iterations[-1].iteration)}."


def _against_baseline(
    record: RunRecord, best: StageRecord, gain: Difference | None, iteration: int | None = None
) -> str:
    """Compare the best model with the strongest baseline arm after as many gradient steps, or with as much compute."""
    at = best.iteration if iteration is None else iteration
    others = [stages for arm, stages in record.arms.items() if arm != BEST_SFT]
    arms = [stage for stages in others for stage in _measured(record, stages) if stage.iteration == at]
    if not arms or best.arm == DPO:  # no baseline took as many steps as self-play and DPO together
        return ""
    arm = _best_of(record, arms)
    steps = "the same number of steps" if iteration is None else "as many steps as the iterations took"
    if has_equal_compute(record.settings):
        steps = "the same compute" if iteration is None else "as much compute as the iterations took"
    name = f"{arm_in_words(arm.arm)} after {steps}"
    found = record.difference(best, arm, record.metric)
    against = _against(record, found, name)
    if against is None:
        return f"; {name} has {_with_interval(record, arm)}"
    is_gain = gain is not None and record.is_better(gain)
    is_lead = found is not None and record.is_better(found)
    joint = "and" if bool(is_gain) == bool(is_lead) else "but"
    return f", {joint} {against}" if iteration is None else f"; {the_stage(best)} is {against}"


def _against_best_sft(record: RunRecord) -> str | None:
    """Compare the best model with the baseline that is trained from the base; None if one of them was not measured."""
    best, arm = record.best_stage, _measured(record, record.arms.get(BEST_SFT, []))
    found = record.difference(best, arm[-1], record.metric) if best is not None and arm else None
    against = _against(record, found, arm_in_words(BEST_SFT))
    return None if best is None or against is None else f"{capitalised(the_stage(best))} is {against}."


def _against(record: RunRecord, found: Difference | None, other: str) -> str | None:
    """Compare a model with another in words that claim no more than the interval shows."""
    if found is None:
        return None
    form = record.form(record.metric).at_least(found.value)
    if record.is_better(found) is None:
        interval = form.interval(found.low, found.high, "+")
        better = found.value != 0 and (found.value > 0) == record.greater_is_better
        word = "not significantly better than" if better else "no better than"
        return f"{word} {other} ({form.difference(found.value)}, {interval})"
    direction = "above" if found.value > 0 else "below"
    return f"{form.size(found.value)} {direction} {other} ({form.size_interval(found)})"


def _measured(record: RunRecord, stages: Sequence[StageRecord]) -> list[StageRecord]:
    return [stage for stage in stages if stage.value(record.metric) is not None]


def _best_of(record: RunRecord, stages: list[StageRecord]) -> StageRecord:
    choose = max if record.greater_is_better else min
    return choose(stages, key=lambda stage: stage.figures[record.metric])


def _passed_over(record: RunRecord) -> StageRecord | None:
    """Return the stage whose figure is better than that of the best model, if the gate required a larger improvement."""
    best = record.best_stage
    others = [one for one in _measured(record, record.self_play) if one.name not in record.rejected]
    if best is None or best not in others:
        return None
    highest = _best_of(record, others)
    return None if highest.figures[record.metric] == best.figures[record.metric] else highest


def _is_behind_rejected(record: RunRecord) -> bool:
    """Return whether an iteration that people found worse has a better figure than the best model."""
    best, measured = record.best_stage, _measured(record, record.self_play)
    if best is None or best not in measured or best.name in record.rejected:
        return False
    highest = _best_of(record, measured)
    return highest.name in record.rejected and highest.figures[record.metric] != best.figures[record.metric]


def _metric_in_words(record: RunRecord) -> str:
    name = figure_of(record.metric).words
    return name if record.greater_is_better else f"{name}, where lower is better"


def _with_interval(record: RunRecord, stage: StageRecord) -> str:
    form = record.form(record.metric)
    interval = stage.interval(record.metric)
    text = form.value(stage.value(record.metric))
    return text if interval is None else f"{text} ({form.interval(*interval)})"


def _iterations_played(record: RunRecord) -> str:
    return f"{len(record.iterations):,} of {counted(record.planned, 'iteration')} played"


def _so_far(record: RunRecord) -> str:
    return "So far, " if not record.is_finished else ""


def the_stage(stage: StageRecord) -> str:
    """Return a stage's name for use within a sentence."""
    return the_stage_of(stage.name)


def the_stage_of(name: Stage) -> str:
    """Return the name of a stage for use within a sentence."""
    return f"the {name.label}" if name.iteration < 0 else name.label
