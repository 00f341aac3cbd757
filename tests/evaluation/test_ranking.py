"""Ranking samples determines which two form a pair, and when there is none."""

from __future__ import annotations

import math

import pytest

from messages import refused
from spin_trl.errors import RecipeError
from spin_trl.evaluation.ranking import (
    EQUAL_SCORES,
    IDENTICAL,
    WITHOUT_SCORE,
    BestAndWorst,
    best_and_worst,
    number_in,
    ranking_number,
)

TEXTS = ["a", "b", "c", "d"]


def test_the_best_and_the_worst_make_a_pair_and_the_first_wins_a_tie() -> None:
    assert best_and_worst([0.0, 1.0, 0.0, 1.0], TEXTS) == BestAndWorst(best=1, worst=0)
    assert best_and_worst([0.5, 0.25, 0.75, 0.25], TEXTS) == BestAndWorst(best=2, worst=1)


def test_samples_that_score_the_same_give_no_pair() -> None:
    assert best_and_worst([1.0, 1.0, 1.0, 1.0], TEXTS) == EQUAL_SCORES
    assert best_and_worst([0.0, math.nan, 0.0, math.inf], TEXTS) == EQUAL_SCORES


def test_the_same_text_is_no_pair() -> None:
    """A scorer may depend on white space, which a chat template removes."""
    assert best_and_worst([1.0, 0.0], ["4", " 4\n"]) == IDENTICAL


def test_samples_without_a_score_are_neither_chosen_nor_rejected() -> None:
    assert best_and_worst([math.nan, 0.0, math.inf, 1.0], TEXTS) == BestAndWorst(best=3, worst=1)
    assert best_and_worst([math.nan, 1.0], ["a", "b"]) == WITHOUT_SCORE
    assert best_and_worst([-math.inf, math.nan], ["a", "b"]) == WITHOUT_SCORE


def test_the_first_of_several_numbers_ranks_unless_another_is_wanted() -> None:
    """A scorer returns nothing if the real response has no answer."""
    scores = [{}, {"exact_match": 1.0, "format": 0.0}, {"exact_match": 0.0, "format": 1.0}]
    assert ranking_number(scores) == "exact_match"
    assert ranking_number(scores, "format") == "format"
    assert [number_in(score, "format") for score in scores[1:]] == [0.0, 1.0]
    assert math.isnan(number_in(scores[0], "format"))
    with refused(RecipeError, "'fromat'", "'format'", "exact_match"):
        ranking_number(scores, "fromat")


def test_a_scorer_with_one_number_has_no_name_for_it() -> None:
    scores = [1.0, {}, 0.5]
    assert ranking_number(scores) is None
    assert number_in(1.0, None) == 1.0
    assert math.isnan(number_in({}, None))
    with pytest.raises(RecipeError):
        ranking_number(scores, "exact_match")
