"""DPO's result is a candidate for the best model unless it is worse than the model it started from."""

import dataclasses
import math

import pytest

from made_up import PROMPTS, key, played, stage
from spin_trl.config.loop import SelfPlayConfig
from spin_trl.evaluation.selection import best_of
from spin_trl.play.gate import finalists, judge, metric_of
from spin_trl.play.gate_after_dpo import with_dpo
from spin_trl.report.record import RunRecord
from spin_trl.run.stage import Stage


def after_dpo(run: RunRecord, origin: str, nll: float | None) -> RunRecord:
    """Return the same run with DPO on top of a model, whose NLL is the same on every prompt."""
    found: dict[str, float] = {} if nll is None else {"held_out": float(PROMPTS), "nll": nll}
    values = {"nll": {key(prompt): 10 * (nll or 0) for prompt in range(PROMPTS)}}
    values["real_tokens"] = {key(prompt): 10.0 for prompt in range(PROMPTS)}
    more = stage(Stage.after_dpo(origin), figures=found, values=values if nll is not None else {})
    return dataclasses.replace(run, stages=[*run.stages, more])


@pytest.mark.parametrize(
    ("nll", "is_candidate", "best"),
    [
        (0.5, True, "dpo/iteration-0"),
        (1.0, True, "iteration-0"),
        (1.5, False, "iteration-0"),
        (math.nan, False, "iteration-0"),
    ],
)
def test_what_dpo_made_is_a_candidate_unless_it_is_worse(nll: float, is_candidate: bool, best: str) -> None:
    """Iteration 0 has an NLL of 1. An equal model does not replace it, and one that is worse or has diverged is no
    candidate.
    """
    run = after_dpo(played(2.0, 1.0), "iteration-0", nll)
    if math.isnan(nll):
        diverged = stage(Stage.after_dpo("iteration-0"), figures={"held_out": float(PROMPTS)})
        run = dataclasses.replace(run, stages=[*run.stages[:-1], diverged])
    metric = metric_of(SelfPlayConfig())
    models = with_dpo(run, 0, metric)
    assert ("dpo/iteration-0" in models) is is_candidate
    assert best_of(models, metric) == best
    assert finalists(run, SelfPlayConfig()) == ["start", "iteration-0", "dpo/iteration-0"]
    assert judge(run, SelfPlayConfig(), 0).best == "iteration-0"  # the gate ignores it when it judges iterations


def test_dpo_on_the_start_is_compared_with_the_start() -> None:
    """It is worse than iteration 0 but not than the start that it was trained from, so it is a candidate, but not the
    best.
    """
    metric, run = metric_of(SelfPlayConfig()), after_dpo(played(2.0, 1.0), "start", 1.5)
    assert best_of(with_dpo(run, 0, metric), metric) == "iteration-0"
    assert "dpo/start" in with_dpo(run, 0, metric)
    assert "dpo/start" not in with_dpo(after_dpo(played(2.0, 1.0), "start", 2.5), 0, metric)


def test_without_held_out_prompts_dpo_on_the_newest_is_delivered() -> None:
    metric, unmeasured = metric_of(SelfPlayConfig()), played(None, None)
    run = after_dpo(after_dpo(unmeasured, "start", None), "iteration-0", None)
    assert best_of(with_dpo(run, 0, metric), metric) == "dpo/iteration-0"
    assert best_of(with_dpo(after_dpo(unmeasured, "start", None), 0, metric), metric) == "iteration-0"
