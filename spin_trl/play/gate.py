"""The decision after an iteration: whether the run goes on, and from which model.

What is decided follows from what lies in the run directory and from the settings. It is written into the journal, because
phases that are launched on their own start from the model that was decided on; and once an iteration has begun, what it
starts from stays, whatever settings change later.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from accelerate import PartialState

from ..counts import counted
from ..evaluation.degeneration import findings
from ..evaluation.selection import Measured, Metric
from ..run.directory import START, iteration_number, iteration_stage
from ..run.run import GATE, Run
from .best import best_of, measured, metric_of

WIDEST = 0.1
"""How far the interval of a win rate may reach to either side, for one half to be a plateau and not ignorance: about what a
hundred prompts give."""

FEW = 50
"""Held-out prompts below which nothing is said of a plateau: two ties would look like one."""


@dataclass(frozen=True)
class Verdict:
    """What was decided after an iteration.

    Attributes:
        decision: `improved`, `continued`, `fell back` or `stopped`.
        best: stage of the best model so far.
        opponent: stage whose model the next iteration starts from.
        lr_scale: what the learning rates of the next iterations are multiplied by.
        reason: why the run falls back or ends here, or None: it goes on.
        warnings: for the user, each a line.
    """

    decision: str
    best: str
    opponent: str
    lr_scale: float = 1.0
    reason: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def stopped(self) -> str | None:
        """Why the run ends here, or None."""
        return self.reason if self.decision == "stopped" else None


def settle(run: Run, iteration: int) -> tuple[Verdict, bool]:
    """Judge an iteration, and write down what was decided.

    What the next iteration starts from is settled when it has begun; from then on the record stays as it is.

    Args:
        run: the run.
        iteration: 0-based; it has been evaluated.

    Returns:
        What was decided, and whether that is new.
    """
    stage, state = iteration_stage(iteration), PartialState()
    verdict, known, has_begun = judge(run, iteration), run.done(GATE, stage), run.has_begun(iteration + 1)
    if has_begun:
        verdict = _as_played(verdict, known, run.opponent_stage(iteration + 1), run.lr_scale(iteration + 1))
    record = {name: value for name, value in dataclasses.asdict(verdict).items() if name != "warnings"}
    is_new = not has_begun and (known is None or any(known[name] != value for name, value in record.items()))
    state.wait_for_everyone()  # all have read the journal before one writes
    if is_new and state.is_main_process:
        run.journal.append(GATE, stage, **record)
    state.wait_for_everyone()
    return verdict, is_new


def _as_played(verdict: Verdict, known: Mapping[str, Any] | None, opponent: str, lr_scale: float) -> Verdict:
    """A verdict on an iteration that another one has followed: whether to stop may be decided anew, but not from where."""
    verdict = dataclasses.replace(verdict, opponent=opponent, lr_scale=lr_scale)
    if verdict.decision == "stopped":
        return verdict
    before = known or {"decision": "continued", "reason": None}
    if before["decision"] == "stopped":  # and then it went on
        before = {"decision": "continued", "reason": None}
    return dataclasses.replace(verdict, decision=before["decision"], reason=before["reason"])


def judge(run: Run, iteration: int) -> Verdict:
    """Judge an iteration that has been evaluated, and before the first one the start's answers, too.

    Args:
        run: the run.
        iteration: 0-based.
    """
    play, stage = run.play, iteration_stage(iteration)
    models = measured(run, iteration)
    metric = metric_of(run)
    best = best_of(models, metric)
    warnings, reasons = _degeneration(run, iteration, models)
    opponent, lr_scale = stage, run.lr_scale(iteration)
    decision = "improved" if best == stage and metric.value(models[stage]) is not None else "continued"
    reason = None
    if metric.regresses(models[stage], models[best]):
        worse = _comparison(metric, models, stage, best)
        warnings.append(f"{stage} is worse than {best}: {worse}")
        if play.on_regression == "stop":
            reasons.append(f"it is worse than {best}: {worse} (`on_regression: stop`)")
        elif play.on_regression == "fall_back":
            decision, opponent, lr_scale = "fell back", best, lr_scale * play.fall_back_lr_scale
            reason = f"Back to {best} as the next opponent (`on_regression: fall_back`)" + (
                f", with {lr_scale:g} times the learning rate." if lr_scale != 1 else "."
            )
    without = iteration - iteration_number(best)
    if play.patience is not None and metric.value(models[best]) is not None and without >= play.patience:
        reasons.append(f"{_times(without)} without an improvement on {best} (`patience`)")
    over = plateau(models[stage].figures) if play.stop_at_plateau and decision != "fell back" else None
    reasons += [over] if over is not None else []
    if models[stage].has_diverged:
        warnings.append(f"{stage}: its probabilities are no numbers (NaN): its training has diverged")
        if decision != "fell back":
            advice = "`on_regression: fall_back` with a `fall_back_lr_scale` below 1 goes on from the best"
            reasons.append(
                "its training has diverged: its probabilities are no numbers, so there is nothing to go on from"
                + (f". {advice}" if play.on_regression != "fall_back" else "")
            )
    if reasons:
        decision, reason = "stopped", f"Stopped after iteration {iteration}: {'; '.join(reasons)}."
    return Verdict(decision, best, opponent, lr_scale, reason, tuple(warnings))


def plateau(figures: Mapping[str, float]) -> str | None:
    """Why the game is over, or None: the policy no longer tells real from generated responses on unseen prompts.

    SPIN has its fixed point where the opponent's distribution is that of the data (arXiv 2401.01335, theorem 5.2); there
    the log-ratio prefers the real response as often as not.

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
        f"prompts ({100 * low:.1f} to {100 * high:.1f}), as often as not (`stop_at_plateau`)"
    )


def _degeneration(run: Run, iteration: int, models: Mapping[str, Measured]) -> tuple[list[str], list[str]]:
    """Warnings of answers that have gone bad, and reasons to stop. The start is warned of alone: play is to mend it."""
    warn, stop = run.play.degeneration_warn, run.play.degeneration_stop
    assert isinstance(warn, dict)
    assert isinstance(stop, dict)
    warnings, reasons = [], []
    for stage in (START, iteration_stage(0)) if iteration == 0 else (iteration_stage(iteration),):
        for finding in findings(models[stage].figures, warn, stop):
            warnings.append(f"{stage}: {finding.message}")
            if finding.stops and stage != START:
                reasons.append(f"{finding.message} (`degeneration_stop` {finding.name}: {stop[finding.name]:g})")
    return warnings, reasons


def _comparison(metric: Metric, models: Mapping[str, Measured], stage: str, best: str) -> str:
    """Both figures of a comparison, and the interval of their difference."""
    values = [metric.value(models[name]) for name in (stage, best)]
    now, then = ("no number" if value is None else f"{value:.4g}" for value in values)
    gain = metric.gain(models[stage], models[best])
    text = f"{metric.name} {now}, against {then}"
    if gain is None or gain.low is None or gain.high is None:
        return text
    sign = 1 if metric.greater_is_better else -1
    low, high = sorted((sign * gain.low, sign * gain.high))
    return f"{text} (difference {sign * gain.value:+.4g}, 95 % interval {low:+.4g} to {high:+.4g})"


def _times(iterations: int) -> str:
    return "an iteration" if iterations == 1 else counted(iterations, "iteration")
