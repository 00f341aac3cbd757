"""The verdict claims no more than the intervals show, in every state of a run.

Intervals of differences by hand, after Agresti and Min: of 100 prompts, 40 won and none lost are 40 points, from 29.5
to 48.9 (40/102 ± 1.96 sqrt(41 - 40²/102)/102); 7 won and 3 lost are 4 points, from -2.4 to 10.2; 18 lost are from 10.0
to 25.3 points.
"""

import math
import re

import pytest

from made_up import record, stage
from spin_trl.report.verdict import remarks, verdict


def plain(text):
    return text.replace("\u00a0", " ").replace("\u2212", "-")


def test_a_gain_that_is_sure_and_a_baseline_that_is_better_still():
    found = record(
        stage("start", range(20)),
        stage("iteration-0", range(40)),
        stage("iteration-1", range(60)),
        stage("baseline/sft/iteration-0", range(95)),
        stage("baseline/sft/iteration-1", range(78)),
        stage("baseline/sft-smoothing-0.1/iteration-1", range(30)),
        best="iteration-1",
        settings={"baseline": "sft"},
    )
    assert plain(verdict(found)) == (
        "Iteration 1 is the best of 2 by score: 60.0 % (55.0 to 65.0), 40.0 points above the start (29.5 to 48.9), but "
        "18.0 points below plain SFT after the same number of steps (10.0 to 25.3)."
    )
    assert remarks(found) == []


def test_a_lead_over_the_baseline_is_said_too():
    found = record(
        stage("start", range(20)),
        stage("iteration-0", range(60)),
        stage("baseline/sft/iteration-0", range(20)),
        best="iteration-0",
    )
    assert plain(verdict(found)).endswith(
        "40.0 points above the start (29.5 to 48.9), and 40.0 points above plain SFT after the same number of steps (29.5 "
        "to 48.9)."
    )


def test_a_gain_that_may_be_luck_is_not_claimed():
    right = [*range(5, 20), *range(50, 57)]  # of the start's 18, three are lost, and seven are won
    found = record(stage("start", range(2, 20)), stage("iteration-0", right), best="iteration-0")
    text = plain(verdict(found))
    assert text.startswith(
        "Iteration 0 has the best figure by score: 22.0 % (17.0 to 27.0), but not significantly better than the"
    )
    assert "(+4.0 points, -2.4 to +10.2)" in text
    assert "above" not in text


@pytest.mark.parametrize("won", range(0, 13, 2))
@pytest.mark.parametrize("lost", range(0, 9, 2))
def test_a_direction_is_named_only_where_the_whole_interval_has_it(won, lost):
    """For all numbers of wins and losses, it is checked with the formula of Agresti and Min."""
    right = [*range(lost, 30), *range(30, 30 + won)]
    text = plain(verdict(record(stage("start", range(30)), stage("iteration-0", right), best="iteration-0")))
    middle = (won - lost) / 102
    spread = 1.959964 * math.sqrt(won + lost + 1 - (won - lost) ** 2 / 102) / 102
    assert ("points above the start" in text) == (middle - spread > 0)
    assert ("points below the start" in text) == (middle + spread < 0)
    assert ("better than the start" in text) == (middle - spread <= 0 <= middle + spread)


def test_the_start_may_be_the_best():
    found = record(
        stage("start", range(60)),
        stage("iteration-0", range(20)),
        stage("iteration-1", range(10)),
        stage("baseline/sft/iteration-1", range(78)),
        best="start",
    )
    assert plain(verdict(found)) == (
        "No iteration has done better than the start by score: 60.0 % (55.0 to 65.0); the best of 2, iteration 0, is "
        "40.0 points below it (29.5 to 48.9); the start is 18.0 points below plain SFT after as many steps as the "
        "iterations took (10.0 to 25.3)."
    )


def test_an_iteration_that_gained_less_than_the_run_asks_is_named():
    found = record(stage("start", range(20)), stage("iteration-0", range(60)), best="start")
    assert "iteration 0 is 40.0 points above it (29.5 to 48.9), a smaller improvement" in plain(verdict(found))
    (remark,) = remarks(found)
    assert remark.startswith("Iteration 0 has a better figure, 60.0")
    kept = record(
        stage("start", range(20)), stage("iteration-0", range(60)), stage("iteration-1", range(61)), best="iteration-0"
    )
    assert "Iteration 0 is kept as the best of 2" in verdict(kept)


def test_where_less_is_better_below_is_a_gain():
    values = {"nll": {"a": 20.0, "b": 10.0}, "real_tokens": {"a": 10.0, "b": 10.0}}
    better = {"nll": {"a": 18.0, "b": 8.0}, "real_tokens": {"a": 10.0, "b": 10.0}}
    found = record(
        stage("start", figures={"nll": 1.5, "nll_low": 1.0, "nll_high": 2.0}, values=values),
        stage("iteration-0", figures={"nll": 1.3, "nll_low": 0.8, "nll_high": 1.8}, values=better),
        best="iteration-0",
        metric="nll",
        greater_is_better=False,
    )
    assert verdict(found) == (
        "Iteration 0 is the best model by NLL per token, where lower is better: 1.300 (0.800 to 1.800), 0.200 below "
        "the start (0.200 to 0.200)."
    )


def test_without_values_by_prompt_both_figures_stand_and_nothing_is_claimed():
    found = record(
        stage("start", range(20), values={}),
        stage("iteration-0", range(60), values={}),
        stage("baseline/sft/iteration-0", range(50), values={}),
        best="iteration-0",
    )
    assert plain(verdict(found)) == (
        "Iteration 0 is the best model by score: 60.0 % (55.0 to 65.0), compared with 20.0 % (15.0 to 25.0) for the start; "
        "plain SFT after the same number of steps has 50.0 % (45.0 to 55.0)."
    )


def test_a_win_rate_is_compared_with_nothing():
    """Each win rate is against a different opponent, and the start has none."""
    found = record(stage("start", range(20)), stage("iteration-0", range(60)), best="iteration-0", metric="win_rate")
    assert plain(verdict(found)) == "Iteration 0 is the best model by win rate: 80.0 % (70.0 to 90.0)."


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (record(), "Nothing has been measured yet."),
        (record(stage("start")), "Nothing has been measured yet."),
        (
            record(stage("start", range(20)), planned=3),
            "So far only the start has been measured: score 20.0 % (15.0 to 25.0).",
        ),
        (
            record(
                stage("iteration-0"),
                stage("iteration-1"),
                best="iteration-1",
                journal=[{"phase": "prepare", "stage": "data", "held_out_rows": 0}],
            ),
            "Iteration 1 is the newest of 2 iterations; no prompts were held out, so it is unknown whether it is better "
            "than the start.",
        ),
        (
            record(stage("start"), stage("iteration-0"), planned=2),
            "Iteration 0 has been trained, but score was not measured for any model.",
        ),
        (
            record(stage("start", figures={"score": math.nan}), stage("iteration-0", figures={"score": math.nan})),
            "Iteration 0 has been trained, but score was not measured for any model.",
        ),
    ],
)  # fmt: skip
def test_a_run_of_which_little_is_known(found, text):
    assert plain(verdict(found)) == text


def test_a_run_that_is_not_finished_says_so_far():
    found = record(stage("start", range(20)), stage("iteration-0", range(60)), best="iteration-0", planned=3)
    assert verdict(found).startswith("So far, iteration 0 is the best model")
    assert remarks(found) == ["The run is not finished: 1 of 3 iterations played."]


def test_a_baseline_that_is_still_missing_is_not_finished():
    found = record(
        stage("start", range(20)), stage("iteration-0", range(60)), best="iteration-0", settings={"baseline": "sft"}
    )
    assert verdict(found).startswith("So far, ")


def test_a_run_that_stopped_says_why_and_is_finished():
    reason = "Stopped after iteration 0: the game is over (`stop_at_plateau`)."
    gate = {"phase": "gate", "stage": "iteration-0", "decision": "stopped", "best": "iteration-0", "reason": reason}
    found = record(
        stage("start", range(20)), stage("iteration-0", range(60)), best="iteration-0", planned=5, journal=[gate]
    )
    assert verdict(found).startswith("Iteration 0 is the best model")
    assert remarks(found) == ["The run ended early: 1 of 5 iterations played.", reason]


def test_a_run_that_fell_back_says_to_what():
    gate = {"phase": "gate", "stage": "iteration-1", "decision": "fell back", "opponent": "iteration-0"}
    found = record(
        stage("start", range(20)),
        stage("iteration-0", range(60)),
        stage("iteration-1", range(10)),
        best="iteration-0",
        journal=[{**gate, "reason": "Back to iteration-0 as the next opponent."}],
    )
    assert remarks(found) == ["After iteration 1: Back to iteration-0 as the next opponent."]


def test_a_score_that_is_no_share_is_no_percentage():
    """Every prompt improves by three points, from 4 to 7, so the intervals have zero width."""
    values = [{"score": dict.fromkeys("abc", value)} for value in (4.0, 7.0)]
    found = record(
        stage("start", figures={"score": 4.0}, values=values[0]),
        stage("iteration-0", figures={"score": 7.0}, values=values[1]),
        best="iteration-0",
    )
    assert verdict(found) == "Iteration 0 is the best model by score: 7.000, 3.000 above the start (3.000 to 3.000)."


def test_every_verdict_is_one_sentence():
    found = record(
        stage("start", range(20)), stage("iteration-0", range(60)), stage("baseline/sft/iteration-0", range(60)),
        best="iteration-0",
    )  # fmt: skip
    text = verdict(found)
    assert re.fullmatch(r"[A-Z].*[^.]\.", text)
    assert ". " not in text
    assert "but no better than plain SFT after the same number of steps" in text


def rejecting(*names: str) -> list[dict]:
    """Return the gate's entries on iterations that people found worse."""
    return [
        {"phase": "gate", "stage": name, "time": 2e9, "decision": "continued", "rejected": True, "best": "start",
         "opponent": name, "lr_scale": 1.0, "reason": None}
        for name in names
    ]  # fmt: skip


def test_iterations_that_people_rejected_are_not_said_to_have_failed_by_the_metric():
    """Their figures are better than the start's, and no improvement was too small."""
    stages = stage("start", range(20)), stage("iteration-0", range(60)), stage("iteration-1", range(50))
    found = record(*stages, best="start", journal=rejecting("iteration-0", "iteration-1"))
    said = plain(verdict(found))
    assert all(part in said for part in ("people", "iteration 0, iteration 1", "20.0 %", "40.0 points above it"))
    assert "smaller" not in said
    assert "smaller" in plain(verdict(record(*stages, best="start")))
    one = plain(verdict(record(*stages, best="start", journal=rejecting("iteration-0"))))
    assert all(part in one for part in ("iteration 0 is 40.0 points above it", "iteration 1 is 30.0 points above it"))


def test_the_best_of_what_people_left_is_not_called_the_best_by_the_metric():
    stages = stage("start", range(20)), stage("iteration-0", range(60)), stage("iteration-1", range(50))
    for journal, words in (([], "is the best of 2"), (rejecting("iteration-0"), "is kept as the best of 2")):
        best = "iteration-1" if journal else "iteration-0"
        assert words in plain(verdict(record(*stages, best=best, journal=journal)))
