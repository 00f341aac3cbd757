"""Settings of human review: which iterations, and what fits together."""

from typing import Any

import pytest

from messages import refused
from spin_trl import SelfPlayConfig
from spin_trl.config.review import is_reviewed
from spin_trl.errors import RecipeError


@pytest.mark.parametrize(
    ("value", "reviewed"),
    [
        (None, []),
        ("every 1", [0, 1, 2, 3]),
        ("every 2", [1, 3]),
        (["every", "2"], [1, 3]),
        ("every 4", [3]),
        ("last", [3]),
        ([0, 2], [0, 2]),
        (["0", "2"], [0, 2]),
        (2, [2]),
        ("1", [1]),
        (["01", "3"], [1, 3]),
    ],
)
def test_the_iterations_that_are_reviewed(value: Any, reviewed: list[int]) -> None:
    play = SelfPlayConfig(num_iterations=4, human_review=value)
    assert [number for number in range(4) if is_reviewed(play, number, is_last=number == 3)] == reviewed


def test_a_run_that_ends_early_is_reviewed_where_it_ends() -> None:
    play = SelfPlayConfig(num_iterations=4, human_review="last")
    assert is_reviewed(play, 1, is_last=True)
    assert not is_reviewed(play, 1, is_last=False)


@pytest.mark.parametrize(
    ("settings", "parts"),
    [
        ({"human_review": "every"}, ["human_review", "every N"]),
        ({"human_review": "every 0"}, ["human_review", "every 0"]),
        ({"human_review": "evry 2"}, ["human_review", "evry 2"]),
        ({"human_review": "lst"}, ["human_review", "lst", "last"]),
        ({"human_review": []}, ["human_review"]),
        ({"human_review": [1, 1]}, ["human_review", "1 1"]),
        ({"human_review": [-1]}, ["human_review", -1]),
        ({"human_review": True}, ["human_review"]),
        ({"human_review": [0.5]}, ["human_review", 0.5]),
        ({"human_review": [0, 3]}, ["human_review", 3, 2]),
        ({"human_review": "every 4"}, ["human_review", "every 4", "3 iterations", "last"]),
        ({"human_review": "last", "review_pairs": "nobody"}, ["review_pairs", "nobody"]),
        ({"human_review": "last", "review_pairs": ["start", "start"]}, ["review_pairs", "start"]),
        ({"human_review": "last", "review_answers": "loud"}, ["review_answers", "loud"]),
        ({"human_review": "last", "review_gate": "maybe"}, ["review_gate", "maybe"]),
        ({"human_review": "last", "review_prompts": 0}, ["review_prompts", 0]),
        ({"human_review": "last", "review_min_win_rate": 1.0}, ["review_min_win_rate"]),
        ({"human_review": "last", "review_gate": "wait", "review_pairs": "real"}, ["review_gate", "review_pairs"]),
        ({"review_gate": "wait"}, ["review_gate", "human_review"]),
        ({"review_prompts": 10}, ["review_prompts", "human_review"]),
    ],
)
def test_what_can_not_be_reviewed_is_refused(settings: dict[str, Any], parts: list[object]) -> None:
    with refused(RecipeError, *parts):
        SelfPlayConfig(**settings)


def test_greedy_answers_are_made_if_they_are_reviewed() -> None:
    assert SelfPlayConfig(human_review="last", review_answers="greedy").evaluate_greedy
    assert not SelfPlayConfig(human_review="last").evaluate_greedy


def test_a_smoke_run_waits_for_nobody() -> None:
    play = SelfPlayConfig(num_iterations=5, human_review=[4], review_gate="wait", smoke=True)
    assert (play.review_gate, play.num_iterations) == ("warn", 2)


def test_answers_are_compared_with_the_previous_model_unless_asked_otherwise() -> None:
    assert SelfPlayConfig(human_review="last").reviewed_against == ["previous"]
    assert SelfPlayConfig(human_review="last", review_pairs=["real", "start"]).reviewed_against == ["real", "start"]
