"""A rubric's numbers are worked out by hand, and what is wrong in it is named with the criterion."""

from __future__ import annotations

import math
from typing import Any

import pytest

from messages import refused
from spin_trl.errors import RecipeError
from spin_trl.evaluation import rules
from spin_trl.evaluation.rubric import MEAN, Criterion, Rubric, read_rubric


def rubric_of(*criteria: dict[str, Any]) -> Rubric:
    return read_rubric({"criteria": list(criteria)})


SHORT: dict[str, Any] = {"name": "short", "weight": 3, "words": {"max": 2}}
DIGIT: dict[str, Any] = {"name": "digit", "required": r"\d"}


def test_every_criterion_has_its_number_and_the_mean_is_weighted() -> None:
    found = rubric_of(SHORT, DIGIT, {"name": "line", "weight": 0, "format": "single_line"})
    assert found.numbers == [MEAN, "short", "digit", "line"]
    assert found.score("one two", {}) == {"mean": 0.75, "short": 1.0, "digit": 0.0, "line": 1.0}
    assert found.score("one two\n3", {}) == {"mean": 0.25, "short": 0.0, "digit": 1.0, "line": 0.0}


@pytest.mark.parametrize("answer", ["", " \n\t"])
def test_an_empty_answer_meets_no_criterion(answer: str) -> None:
    """Otherwise a model that says nothing would be perfect by what it must not say."""
    found = rubric_of(SHORT, {"name": "polite", "forbidden": "fool"}, {"name": "any", "whole_text": ".*"})
    assert set(found.score(answer, {}).values()) == {0.0}


def test_white_space_around_an_answer_is_ignored() -> None:
    found = rubric_of({"name": "letter", "whole_text": "[A-D]"}, {"name": "one", "characters": {"max": 1}})
    assert found.score(" B\n", {}) == {"mean": 1.0, "letter": 1.0, "one": 1.0}


def test_what_does_not_apply_to_a_row_is_left_out_of_it() -> None:
    found = rubric_of(DIGIT, {"name": "named", "weight": 3, "required": {"column": "keyword"}})
    assert found.columns == {"keyword"}
    assert found.score("7", {"keyword": "seven"}) == {"mean": 0.25, "digit": 1.0, "named": 0.0}
    assert found.score("7", {"keyword": None}) == {"mean": 1.0, "digit": 1.0}
    assert rubric_of({"name": "named", "required": {"column": "keyword"}}).score("7", {"keyword": None}) == {}
    with refused(ValueError, "'named'", "`keyword`"):
        found.score("7", {"keyword": {}})


def test_a_criterion_that_can_not_be_decided_in_time_has_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither has the mean: it would be of other criteria than those of other answers."""
    monkeypatch.setattr(rules, "PATTERN_SECONDS", 0.05)
    scores = rubric_of({"name": "slow", "required": "(a|aa)+$"}, DIGIT).score("a" * 60 + "1", {})
    assert math.isnan(scores["slow"])
    assert math.isnan(scores["mean"])
    assert scores["digit"] == 1.0


def test_a_pattern_that_fills_the_memory_does_not_end_a_run() -> None:
    class Endless:
        columns: frozenset[str] = frozenset()

        def holds(self, answer: str, columns: Any) -> bool:
            raise MemoryError

    assert math.isnan(Criterion("endless", 1.0, "required", Endless()).score("a", {}))


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (None, ["`criteria`"]),
        ([SHORT], ["`criteria`"]),
        ({"criteria": []}, ["`criteria`"]),
        ({"criteria": {"short": SHORT}}, ["`criteria`"]),
        ({"criteria": [SHORT], "version": 2}, ["'version'", "`criteria`"]),
        ({"criteria": [SHORT, "short"]}, [2, "'short'"]),
        ({"criteria": [{"format": "json"}]}, [1, "`name`"]),
        ({"criteria": [{"name": "a b", "format": "json"}]}, ["'a b'", "`name`"]),
        ({"criteria": [{"name": "a" * 41, "format": "json"}]}, ["`name`", 40]),
        ({"criteria": [SHORT, SHORT]}, ["'short'"]),
        ({"criteria": [{"name": "mean", "format": "json"}]}, ["'mean'"]),
        ({"criteria": [{"name": "mean_se", "format": "json"}]}, ["'mean_se'"]),
        ({"criteria": [SHORT, {"name": "short_low", "format": "json"}]}, ["'short_low'"]),
        ({"criteria": [{**SHORT, "weight": -1}]}, ["'short'", "`weight`", -1]),
        ({"criteria": [{**SHORT, "weight": "2"}]}, ["'short'", "`weight`", "'2'"]),
        ({"criteria": [{**SHORT, "weight": math.inf}]}, ["'short'", "`weight`", "inf"]),
        ({"criteria": [{**SHORT, "weight": 0}]}, ["`weight`", 0]),
        ({"criteria": [{**SHORT, "wieght": 2}]}, ["'short'", "'wieght'", "'weight'"]),
        ({"criteria": [{"name": "short", "words": {"max": -1}}]}, ["'short'", "`words.max`", -1]),
    ],
)
def test_a_rubric_that_can_not_be_read_is_refused_with_the_criterion(content: Any, parts: list[object]) -> None:
    with refused(RecipeError, *parts):
        read_rubric(content)


def test_everything_that_is_wrong_is_in_one_message() -> None:
    with refused(RecipeError, "'one'", "'jsn'", "'two'", "'('"):
        rubric_of({"name": "one", "format": "jsn"}, DIGIT, {"name": "two", "required": "("})


def test_a_name_that_only_ends_like_an_interval_is_allowed() -> None:
    assert rubric_of({"name": "not_too_low", "words": {"min": 3}}).numbers == ["mean", "not_too_low"]
