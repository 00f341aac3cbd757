"""Decides after an iteration whether the run continues, from which model, and which models are candidates for the best.

The decision depends only on the run directory and the settings. It is written to the journal, because phases that are
launched separately start from the model that was decided on; once an iteration has begun, its starting model is fixed, even
if settings change later.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from accelerate import PartialState

from ..config.loop import SelfPlayConfig
from ..config.review import OFF, WAIT
from ..config.traits import SFT_FIRST
from ..counts import counted
from ..evaluation.degeneration import findings
from ..evaluation.selection import Measured, Metric, best_of
from ..files import read_json
from ..generation.store import STORE_MANIFEST
from ..report.record import RunRecord, StageRecord, read_record
from ..run.journal import UNTRAINED, Decisions, Step, is_of
from ..run.objects import best_stage
from ..run.reviews import worse_by_votes
from ..run.run import Run
from ..run.stage import BASE, START, Stage, up_to

WIDEST = 0.1
"""Largest distance from the win rate to either end of its interval for which a rate of one half counts as a plateau rather
than as too little data: about what a hundred prompts give."""

FEW = 50
"""Number of held-out prompts below which no plateau is reported: two ties would look like one."""


@dataclass(frozen=True)
class Verdict:
    """The decision after an iteration.

    Attributes:
        decision: `improved`, `continued`, `fell back` or `stopped`.
        best: stage of the best model so far.
        opponent: stage whose model the next iteration starts from.
        lr_scale: factor applied to the learning rates of later iterations.
        reason: why the run falls back or stops here; None if it continues.
        warnings: warnings for the user, one line each.
        rejected: whether people found the iteration worse, so that it can't become the best (`review_gate: wait`).
    """

    decision: str
    best: Stage
    opponent: Stage
    lr_scale: float = 1.0
    reason: str | None = None
    warnings: tuple[str, ...] = ()
    rejected: bool = False

    @property
    def stopped(self) -> str | None:
        """Why the run stops here, or None."""
        return self.reason if self.decision == "stopped" else None


def metric_of(play: SelfPlayConfig) -> Metric:
    """Return the metric by which a run with these settings chooses its best iteration."""
    return Metric(
        play.metric_for_best_iteration,
        bool(play.greater_is_better_iteration),
        play.min_improvement,
        play.significant_improvement,
    )


def settle(run: Run, iteration: int) -> tuple[Verdict, bool]:
    """Judge an iteration and record the decision.

    Once the next iteration has begun, its starting model is fixed and the recorded decision no longer changes. If the record
    is missing (because the journal was truncated), the decision is recorded again, with the opponent that generated that
    next iteration's answers and the factor on its learning rate, which are stored with the answers.

    Args:
        run: the run.
        iteration: number of the iteration (0-based), which has been evaluated.

    Returns:
        The verdict, and whether it is new.
    """
    state, record = PartialState(), read_record(run.directory)
    known, lr_scale = record.decisions.after(iteration), record.decisions.lr_scale(iteration)
    has_begun = run.has_begun(iteration + 1)
    opponent, decided = started_from(run, iteration + 1) if has_begun else (None, None)
    # The setting of now, unless another one was in force when the next iteration began.
    fallen_back = lr_scale * run.play.fall_back_lr_scale if decided is None else decided
    counts_votes = votes_count(run, iteration) or not known
    rejected = None if counts_votes else bool(known.get("rejected"))
    verdict, is_settled = judge(record, run.play, iteration, fallen_back, rejected), False
    if has_begun:
        is_settled = opponent is None or (bool(known) and verdict.rejected == bool(known.get("rejected")))
        if known or opponent is None:
            verdict = as_played(verdict, record.decisions, iteration)
        else:
            verdict = as_begun(verdict, iteration, opponent, fallen_back, lr_scale)
    entry = {name: value for name, value in dataclasses.asdict(verdict).items() if name != "warnings"}
    before = {"rejected": False, **known}  # earlier versions had no votes
    is_new = not is_settled and any(before.get(name) != value for name, value in {"decision": "", **entry}.items())
    state.wait_for_everyone()  # all must have read the journal before one writes
    if is_new and state.is_main_process:
        run.journal.append(Step.GATE, Stage.of(iteration), **entry)
    state.wait_for_everyone()
    return verdict, is_new


def settle_generations(run: Run, iteration: int) -> str | None:
    """Decide whether an iteration is trained on its generations, and record it if not, or no longer not.

    The decision on an iteration that has been trained stays, also if its model was lost and is trained again: later
    iterations may have started from what the gate decided then.

    Args:
        run: the run.
        iteration: number of the iteration (0-based), whose opponent has answered.

    Returns:
        Why the run ends before the iteration is trained, or None.
    """
    stage, state = Stage.of(iteration), PartialState()
    if any(is_of(entry, Step.TRAIN, stage) for entry in run.journal.entries()):
        return None
    reason = nothing_to_learn(run.done(Step.GENERATE, stage) or {}, run.play.identical_stop, iteration)
    known, decisions = run.decisions.after(iteration), run.decisions
    decision = "continued" if reason is None else UNTRAINED
    is_new = known.get("reason") != reason or (bool(known) and known["decision"] != decision)
    state.wait_for_everyone()  # all must have read the journal before one writes
    if is_new and state.is_main_process:
        opponent = decisions.opponent(iteration)
        run.journal.append(
            *(Step.GATE, stage),
            decision=decision,
            best=best_stage(run.directory) or str(opponent),
            opponent=opponent,
            lr_scale=decisions.lr_scale(iteration),
            reason=reason,
        )
    state.wait_for_everyone()
    return reason


def nothing_to_learn(generated: Mapping[str, Any], most: float, iteration: int) -> str | None:
    """Return why there is nothing to learn from an iteration's generations: nearly all equal the real response; or None.

    Args:
        generated: the journal's entry on the generations; earlier versions did not count them.
        most: share of identical generations above which an iteration is not trained.
        iteration: number of the iteration (0-based).
    """
    total, identical = generated.get("responses", 0), generated.get("identical", 0)
    if not total or identical <= most * total:
        return None
    return (
        f"Stopped before training iteration {iteration}: {identical:,} of {total:,} generations "
        f"({100 * identical / total:.1f} %) equal the real response, which leaves nothing to learn (`identical_stop`). SFT "
        "for fewer epochs, or self-play on prompts that SFT has not seen (`sft_share`, `self_play_prompts`), leaves more."
    )


def started_from(run: Run, iteration: int) -> tuple[Stage | None, float | None]:
    """Return what had been decided when the prompts of an iteration (0-based) were answered.

    Returns:
        The stage whose model answered, and the factor on the iteration's learning rate, from the journal or the generations;
        None if there are no answers, an earlier version did not record it, or the recorded value is impossible.
    """
    stage = Stage.of(iteration)
    try:
        found = run.done(Step.GENERATE, stage) or read_json(run.directory.generations(stage) / STORE_MANIFEST)
        opponent, scale = Stage(found["opponent"]), found.get("lr_scale")
    except (OSError, ValueError, LookupError, TypeError):
        return None, None
    if opponent not in up_to(iteration - 1):
        return None, None
    return opponent, float(scale) if isinstance(scale, int | float) and 0 < scale <= 1 else None


def as_played(verdict: Verdict, decisions: Decisions, iteration: int) -> Verdict:
    """Adjust the verdict on an iteration that another has followed: whether to stop may change, the opponent may not."""
    opponent, lr_scale = decisions.opponent(iteration + 1), decisions.lr_scale(iteration + 1)
    verdict = dataclasses.replace(verdict, opponent=opponent, lr_scale=lr_scale)
    if verdict.decision == "stopped":
        return verdict
    before = decisions.after(iteration)
    if not before or before["decision"] == "stopped":  # but it was continued
        return dataclasses.replace(verdict, decision="continued", reason=None)
    is_revised = verdict.rejected and before["decision"] == "improved"
    decision = "continued" if is_revised else before["decision"]
    return dataclasses.replace(verdict, decision=decision, reason=before["reason"])


def as_begun(verdict: Verdict, iteration: int, opponent: Stage, fallen_back: float, lr_scale: float) -> Verdict:
    """Adjust the verdict on an iteration whose decision is missing from the journal, given the next iteration's opponent.

    Args:
        verdict: the verdict as judged now, perhaps with other settings.
        iteration: number of the iteration (0-based).
        opponent: opponent of the next iteration.
        fallen_back: factor applied to the next iteration's learning rates if the run fell back.
        lr_scale: the same factor if it did not.
    """
    if verdict.opponent == opponent:
        return verdict
    falls_back = opponent != Stage.of(iteration)
    decision, reason = (
        ("fell back", f"Back to {opponent} as the next opponent.") if falls_back else ("continued", None)
    )
    if verdict.stopped is not None:
        decision, reason = verdict.decision, verdict.reason
    scale = fallen_back if falls_back else lr_scale
    return dataclasses.replace(verdict, decision=decision, opponent=opponent, lr_scale=scale, reason=reason)


def judge(
    record: RunRecord,
    play: SelfPlayConfig,
    iteration: int,
    fallen_back: float | None = None,
    rejected: bool | None = None,
) -> Verdict:
    """Judge an iteration that has been evaluated; for the first one, also judge the start's answers.

    Args:
        record: record of the run.
        play: settings of the run's loop.
        iteration: number of the iteration (0-based).
        fallen_back: factor on later learning rates if the run falls back; None: by the settings.
        rejected: whether the iteration is rejected because people found it worse; None: by the votes.
    """
    stage, metric, models = Stage.of(iteration), metric_of(play), record.played(iteration)
    # Votes on the previous iteration may have come while this one was played.
    of_both = {one: _worse_by_votes(record, play, one) for one in (Stage.of(iteration - 1), stage)}
    votes = of_both[stage]
    waits = play.review_gate == WAIT
    rejected = (bool(votes) and waits) if rejected is None else rejected
    left_out = record.rejected - {stage} | ({stage} if rejected else set())
    best = best_of({name: model for name, model in models.items() if name not in left_out}, metric)
    warnings, reasons = _degeneration(play, models, iteration)
    warnings += [f"{one}: {sentence}" for one, sentences in of_both.items() for sentence in sentences]
    opponent, lr_scale = stage, record.decisions.lr_scale(iteration)
    decision = "improved" if best == stage and models[stage].value(metric.name) is not None else "continued"
    reason = None
    worse = votes[0] if rejected and votes and waits else None
    if models[stage].figures and not models[stage].has_diverged and models[stage].value(metric.name) is None:
        warnings.append(f"{stage} has no `{metric.name}`, so it can't be compared and can't become the best")
    elif metric.regresses(models[stage], models[best]):
        compared = comparison(metric, models[stage], models[best])
        warnings.append(f"{stage} is worse than {best}: {compared}")
        worse = f"it is worse than {best}: {compared}"
    if worse is not None and play.on_regression == "stop":
        reasons.append(f"{worse} (`on_regression: stop`)")
    elif worse is not None and play.on_regression == "fall_back":
        decision, opponent = "fell back", best
        lr_scale = lr_scale * play.fall_back_lr_scale if fallen_back is None else fallen_back
        reason = f"Back to {best} as the next opponent (`on_regression: fall_back`)" + (
            f", with {lr_scale:g} times the learning rate." if lr_scale != 1 else "."
        )
    without = iteration - best.iteration
    if play.patience is not None and models[best].value(metric.name) is not None and without >= play.patience:
        reasons.append(f"{_times(without)} without an improvement on {best} (`patience`)")
    over = plateau(models[stage].figures) if play.stop_at_plateau and decision != "fell back" else None
    reasons += [over] if over is not None else []
    if models[stage].has_diverged:
        warnings.append(f"{stage}: the logits are NaN: training diverged")
        if decision != "fell back":
            advice = "`on_regression: fall_back` with a `fall_back_lr_scale` below 1 continues from the best model"
            reasons.append(
                "the logits are NaN: training diverged, so the next iteration has no opponent"
                + (f". {advice}" if play.on_regression != "fall_back" else "")
            )
    if reasons:
        decision, reason = "stopped", f"Stopped after iteration {iteration}: {'; '.join(reasons)}."
    return Verdict(decision, best, opponent, lr_scale, reason, tuple(warnings), rejected)


def _worse_by_votes(record: RunRecord, play: SelfPlayConfig, stage: Stage) -> list[str]:
    """Return sentences on why people find a stage worse; none if they don't, or if the settings ignore their votes."""
    return [] if play.review_gate == OFF else worse_by_votes(record.journal, stage, play.review_min_win_rate)


def votes_count(run: Run, iteration: int) -> bool:
    """Return whether people's votes on an iteration (0-based) can change what is decided: no other has followed, or only one
    that is not trained."""
    return not run.has_begun(iteration + 1) or run.decisions.after(iteration + 1).get("decision") == UNTRAINED


def ends_after(run: Run, iteration: int) -> bool:
    """Return whether a run ends after an iteration (0-based) that has been played, as far as has been decided."""
    after, next_one = (run.decisions.after(t).get("decision") for t in (iteration, iteration + 1))
    return iteration + 1 == run.play.num_iterations or after == "stopped" or next_one == UNTRAINED


def finalists(record: RunRecord, play: SelfPlayConfig) -> list[Stage]:
    """Return the models that are measured on the test set at the end of a run: the base if the run did SFT first, the
    start, the best iteration, the best of each baseline arm, and DPO's. This is the one list of them.

    Args:
        record: record of the run.
        play: settings of its loop, which say what is best.
    """
    metric = metric_of(play)
    models = record.candidates(max((stage.iteration for stage in record.iterations), default=-1))
    groups = [models, *({stage.name: stage for stage in stages} for stages in record.arms.values())]
    first = [BASE, START] if play.start == SFT_FIRST else [START]
    best = [best_of(group, metric) for group in groups if group]
    return list(dict.fromkeys([*first, *best, *(stage.name for stage in record.after_dpo)]))


def plateau(figures: Mapping[str, float]) -> str | None:
    """Return why the game is over: the policy can't tell real from generated responses on unseen prompts; None if it can.

    SPIN's fixed point is reached when the opponent's distribution equals that of the data (arXiv 2401.01335, theorem 5.2);
    there the log-ratio prefers the real response half of the time.

    Args:
        figures: held-out figures of an iteration.
    """
    if not {"win_rate", "win_rate_low", "win_rate_high"} <= set(figures) or figures["held_out"] < FEW:
        return None
    rate, low, high = figures["win_rate"], figures["win_rate_low"], figures["win_rate_high"]
    if not low <= 0.5 <= high or max(rate - low, high - rate) > WIDEST:
        return None
    return (
        f"the game is over: the policy prefers the real response to its opponent's on {100 * rate:.1f} % of the held-out "
        f"prompts ({100 * low:.1f} to {100 * high:.1f}), no better than chance (`stop_at_plateau`)"
    )


def _degeneration(
    play: SelfPlayConfig, models: Mapping[Stage, StageRecord], iteration: int
) -> tuple[list[str], list[str]]:
    """Return warnings about degenerate answers, and reasons to stop. The start only gets warnings: training may mend it."""
    warn, stop = play.degeneration_warn, play.degeneration_stop
    assert isinstance(warn, dict)
    assert isinstance(stop, dict)
    warnings, reasons = [], []
    looked_at = [START, Stage.of(0)] if iteration == 0 else [Stage.of(iteration)]
    for stage in looked_at:
        for finding in findings(models[stage].figures if stage in models else {}, warn, stop):
            warnings.append(f"{stage}: {finding.message}")
            if finding.stops and not stage.is_start:
                reasons.append(f"{finding.message} (`degeneration_stop` {finding.name}: {stop[finding.name]:g})")
    return warnings, reasons


def comparison(metric: Metric, model: Measured, other: Measured) -> str:
    """Describe a comparison of two models: both figures, and the difference with its interval."""
    values = [one.value(metric.name) for one in (model, other)]
    now, then = ("missing" if value is None else f"{value:.4g}" for value in values)
    gain = metric.gain(model, other)
    text = f"{metric.name} {now}, compared with {then}"
    if gain is None or gain.low is None or gain.high is None:
        return text
    sign = 1 if metric.greater_is_better else -1
    low, high = sorted((sign * gain.low, sign * gain.high))
    return f"{text} (difference {sign * gain.value:+.4g}, 95 % interval {low:+.4g} to {high:+.4g})"


def _times(iterations: int) -> str:
    return "an iteration" if iterations == 1 else counted(iterations, "iteration")
