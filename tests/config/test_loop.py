"""Settings of the loop are checked where they are set, including lists with a value for each iteration."""

from typing import Any

import pytest

from messages import refused
from spin_trl import SelfPlayConfig
from spin_trl.config.loop import PER_ITERATION, iteration_settings
from spin_trl.errors import RecipeError


@pytest.mark.parametrize(
    ("setting", "value", "parts"),
    [
        ("num_iterations", 0, ("`num_iterations`", 0, 1)),
        ("history", -1, ("`history`", -1, 0)),
        ("held_out_fraction", -0.1, ("`held_out_fraction`", -0.1, 0, 0.5)),
        ("held_out_fraction", 0.6, ("`held_out_fraction`", 0.6, 0, 0.5)),
        ("held_out_max", 0, ("`held_out_max`", 0, 1)),
        ("keep_iterations", 0, ("`keep_iterations`", 0, 1)),
        ("existing_run", "ask", ("`existing_run`", "'ask'", "'continue'", "'fail'", "'overwrite'")),
        ("lora_opponent", "both", ("`lora_opponent`", "'both'", "'adapter'", "'merge'")),
        ("baseline", "dpo", ("`baseline`", "'dpo'", "'sft'")),
        (
            "baseline_label_smoothing",
            [0.1, 1.5],
            ("`baseline_label_smoothing`", 1.5, 0, 1),
        ),
        ("metric_for_best_iteration", "score", ("`metric_for_best_iteration`", "'score'", "`scorer`")),
    ],
)
def test_values_of_the_loop_out_of_range_are_named(setting: str, value: Any, parts: tuple[object, ...]) -> None:
    """The message has the value and the allowed range."""
    with refused(RecipeError, *parts):
        SelfPlayConfig(**{setting: value})


@pytest.mark.parametrize(
    ("metric", "greater"), [("nll", False), ("win_rate", True), ("score", True), ("score_greedy", True)]
)
def test_which_way_a_figure_is_better_is_known(metric: str, greater: bool) -> None:
    """A lower NLL is better, and more of anything else; the user's setting takes precedence."""
    play = SelfPlayConfig(metric_for_best_iteration=metric, scorer="json:dumps")
    assert play.greater_is_better_iteration is greater
    other = SelfPlayConfig(
        metric_for_best_iteration=metric, scorer="json:dumps", greater_is_better_iteration=not greater
    )
    assert other.greater_is_better_iteration is not greater


def test_a_metric_of_greedy_answers_has_them_made() -> None:
    """Otherwise there would be nothing to choose by."""
    assert SelfPlayConfig(metric_for_best_iteration="score_greedy", scorer="json:dumps").evaluate_greedy
    assert not SelfPlayConfig(metric_for_best_iteration="score", scorer="json:dumps").evaluate_greedy


@pytest.mark.parametrize("name", PER_ITERATION)
def test_four_settings_may_differ_by_iteration(name: str) -> None:
    """Each iteration has its own value; `5e-7`, which YAML reads as text, counts as a number."""
    play = SelfPlayConfig(num_iterations=3, per_iteration={name: [0.5, "5e-7", 2]})
    assert [iteration_settings(play, i) for i in range(3)] == [{name: 0.5}, {name: 5e-7}, {name: 2.0}]


def test_without_lists_no_iteration_differs() -> None:
    """The iteration's own settings apply."""
    assert iteration_settings(SelfPlayConfig(), 2) == {}


@pytest.mark.parametrize("count", [2, 4])
def test_a_list_that_does_not_fit_the_iterations_is_named(count: int) -> None:
    """Lists may be too short or too long; the message has both numbers."""
    with refused(RecipeError, "`learning_rate`", count, 3, [1e-6] * count):
        SelfPlayConfig(num_iterations=3, per_iteration={"learning_rate": [1e-6] * count})


@pytest.mark.parametrize(
    ("lists", "parts"),
    [
        ({"seed": [1, 2]}, ("`seed`", "iteration", *PER_ITERATION)),
        ({"beta": 0.1}, ("`beta`", 0.1, "list")),
        ({"beta": "0.1"}, ("`beta`", "'0.1'", "list")),
        ({"beta": [0.1, "much"]}, ("`beta`", [0.1, "much"], "numbers")),
        ({"beta": [0.1, None]}, ("`beta`", [0.1, None], "numbers")),
        ("[1, 2]", ("`per_iteration`", "[1, 2]", "mapping")),
    ],
    ids=["unknown", "number", "text", "no number", "nothing", "no mapping"],
)
def test_lists_that_are_none_are_named(lists: Any, parts: tuple[object, ...]) -> None:
    """The message names the settings that may be lists, and the type of their values."""
    with refused(RecipeError, *parts):
        SelfPlayConfig(num_iterations=2, per_iteration=lists)


def test_a_smoke_run_plays_two_iterations_of_any_recipe() -> None:
    """It takes the first values of longer lists, and makes no run longer."""
    play = SelfPlayConfig(num_iterations=4, smoke=True, per_iteration={"beta": [0.1, 0.2, 0.3, 0.4]})
    assert play.num_iterations == 2
    assert play.per_iteration == {"beta": [0.1, 0.2]}
    assert SelfPlayConfig(num_iterations=1, smoke=True).num_iterations == 1


def test_unisolated_code_alone_allows_nothing() -> None:
    with refused(RecipeError, "`allow_unisolated_code`", "`allow_generated_code: true`"):
        SelfPlayConfig(allow_unisolated_code=True)
    assert not SelfPlayConfig().allow_generated_code
