"""Before a run starts, it says what judges its models; for each thing that nothing judges, the setting that would."""

from __future__ import annotations

from typing import Any

import pytest

from messages import names
from spin_trl.config.loop import SelfPlayConfig
from spin_trl.evaluation.scoring import scorer_of
from spin_trl.plan.judged import Judging, judged, names_of_scorer

RUBRIC = {"criteria": [{"name": "short", "words": {"max": 9}}, {"name": "data", "format": "json"}]}


def lines(held_out: int = 40, *, tested: bool = False, retained: bool = False, **settings: Any) -> list[str]:
    play = SelfPlayConfig(**settings)
    return judged(Judging(play, held_out, tested, retained, tuple(play.scorer or ())))


def test_the_defaults_say_everything_that_is_missing() -> None:
    first, *missing = lines()
    assert names(first, 40, "NLL", "`metric_for_best_iteration`")
    assert not names(first, "`evaluate_greedy`"), "without a scorer, greedy answers are not scored either"
    settings = ["`scorer`", "`degeneration_stop`", "`test_name`", "`retain_name`", "`human_review`"]
    assert [[name for name in settings if names(line, name)] for line in missing] == [[name] for name in settings]
    assert names(missing[0], "`scorer: rubric`")
    assert names(missing[1], "`metric_for_best_iteration: nll`")


def test_what_is_fine_is_one_line() -> None:
    scored: dict[str, Any] = {"scorer": "gsm8k", "metric_for_best_iteration": "score/exact_match"}
    scored |= {"degeneration_stop": {"truncated": 0.9}, "human_review": "last"}
    found = lines(tested=True, retained=True, **scored, evaluate_greedy=True)
    assert len(found) == 1
    assert names(found[0], "votes")
    assert names(found[0], 40, "NLL", "gsm8k", "score/exact_match", "greedy")
    assert not names(found[0], "`evaluate_greedy`")


def test_answers_that_are_only_sampled_name_the_setting() -> None:
    found = lines(scorer=["gsm8k", "rubric"], rubric=RUBRIC)
    assert names(found[0], "gsm8k", "rubric", 2, "`evaluate_greedy`")


@pytest.mark.parametrize(
    ("settings", "sees", "is_said"),
    [
        ({}, False, True),
        ({"metric_for_best_iteration": "win_rate"}, False, True),
        ({"metric_for_best_iteration": "length_generated"}, False, True),
        ({"metric_for_best_iteration": "score", "scorer": "json"}, True, True),
        ({"metric_for_best_iteration": "degeneration/repetition"}, True, True),
        ({"scorer": "json"}, False, True),
        ({"degeneration_stop": {"empty": 0.5}}, False, False),
        ({"degeneration_stop": {"empty": None}}, False, True),
    ],
)
def test_a_metric_that_can_not_see_degeneration_is_said(settings: dict[str, Any], sees: bool, is_said: bool) -> None:
    """Likelihoods are those of given responses: what the model itself writes is not among them."""
    found = [line for line in lines(**settings)[1:] if names(line, "`degeneration_stop`")]
    assert len(found) == is_said
    assert all(("metric_for_best_iteration" in line) != sees for line in found)


def test_without_held_out_prompts_nothing_judges() -> None:
    (found,) = lines(0, scorer="json")
    assert names(found, "`held_out_fraction`", "`held_out_name`")


def test_a_long_pattern_takes_no_page() -> None:
    assert len(lines(scorer="regex:" + "x" * 10_000)[0]) < 300


def test_a_scorer_from_python_has_its_own_name() -> None:
    def mine(prompt: str, real: str, generated: str) -> float:
        return 1.0

    assert names_of_scorer(mine, None) == ("mine",)
    assert names_of_scorer(scorer_of(["json", "gsm8k"]), None) == ("json", "gsm8k")
    assert names_of_scorer(scorer_of(["json"]), ["json"]) == ("json",)
    assert names_of_scorer(None, None) == ()
