"""Remarks on supervised training cover the best and the last point, the length of baselines, and that nothing was tuned."""

from __future__ import annotations

from typing import Any

from messages import names
from spin_trl.report.record import RunRecord, StageRecord
from spin_trl.report.supervised import (
    best_sft_in_words,
    learning_rates,
    length_in_words,
    on_baselines,
    sft_in_words,
    untuned_in_words,
)
from spin_trl.run.stage import Stage

POINTS = [[10, 1.0, 2.5], [20, 2.0, 2.25], [30, 3.0, 2.75]]


def record(entries: dict[str, dict[str, Any]], **settings: Any) -> RunRecord:
    """Return the record of a run with these stages, whose training has these journal entries."""
    journal = [{"phase": "train", "stage": stage, **entry} for stage, entry in entries.items()]
    stages = [StageRecord(name=Stage(stage)) for stage in entries]
    return RunRecord(
        name="run", metric="nll", greater_is_better=False, planned=2, stages=stages, journal=journal, settings=settings
    )


def test_sft_from_the_base_is_shown_at_its_best_and_its_last_point() -> None:
    course = {"steps": 30, "rows": 160, "points": POINTS, "best_step": 20}
    found = record({"start": course, "baseline/sft-best/iteration-1": {**course, "best_step": 30}})
    (of_start,) = sft_in_words(found)
    assert names(of_start, "160 rows", "step 20 of 30", "2.2500", "2.7500")
    of_arm = best_sft_in_words(found)
    assert names(of_arm, "160 rows", "step 30 of 30")
    assert of_arm.count("2.7500") == 1
    measured_nowhere = record({"start": {"steps": 30, "rows": 160}, "iteration-0": {"steps": 3}})
    assert names(sft_in_words(measured_nowhere)[0], "160 rows", "30 steps")
    assert best_sft_in_words(measured_nowhere) is None
    assert sft_in_words(record({"start": {"parameters": 5}})) == []


def test_learning_rates_are_those_that_the_arms_were_trained_with() -> None:
    arms = {"baseline/sft/iteration-0": {"learning_rate": 1e-5}, "baseline/sft-dft/iteration-0": {"steps": 3}}
    assert learning_rates(record({"iteration-0": {}, **arms})) == {"sft": 1e-5}


def test_it_is_said_that_a_learning_rate_was_not_tuned() -> None:
    for rates in ({"sft": 2e-5}, {"sft": 2e-5, "sft-best": 1e-4}):
        assert names(untuned_in_words(rates), *(f"{arm} {rate:g}" for arm, rate in rates.items()))
    assert names(length_in_words({"baseline_equal": "compute"}, "space"), "compute", "space")
    assert names(length_in_words({}, "space"), "steps", "space")


def test_a_run_without_baselines_has_no_remark_on_them() -> None:
    assert on_baselines(record({"start": {"steps": 30}, "iteration-0": {"steps": 3}})) == []
    course = {"steps": 30, "rows": 160, "points": POINTS, "best_step": 20, "learning_rate": 1e-4}
    arms = {"baseline/sft/iteration-0": {"learning_rate": 1e-5}, "baseline/sft-best/iteration-0": course}
    first, second = on_baselines(record(arms, baseline_equal="compute"))
    assert names(first, "compute", "sft 1e-05", "sft-best 0.0001")
    assert names(second, "step 20 of 30")
