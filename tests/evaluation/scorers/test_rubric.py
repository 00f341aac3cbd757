"""The scorer `rubric` gives a rubric's numbers, alone, with others, and with the columns that its rules name."""

from __future__ import annotations

import pytest

from messages import refused
from spin_trl.errors import RecipeError
from spin_trl.evaluation.rubric import read_rubric
from spin_trl.evaluation.scoring import ScorerColumns, columns_of, figures_of, score_of, scorer_of

RUBRIC = read_rubric(
    {
        "criteria": [
            {"name": "short", "words": {"max": {"column": "limit"}}},
            {"name": "no_shouting", "forbidden": "!"},
        ]
    }
)


def test_it_scores_the_generated_response_alone() -> None:
    found = scorer_of(["rubric"], rubric=RUBRIC)
    assert columns_of(found) == ScorerColumns(required=frozenset({"limit"}))
    scores = score_of(found, "Be loud!", "As you wish!", "one two three", {"limit": 2})
    assert scores == {"mean": 0.5, "short": 0.0, "no_shouting": 1.0}
    assert figures_of(["rubric"], RUBRIC) == [f"score/{name}" for name in scores]


def test_with_others_its_numbers_have_its_name() -> None:
    names = ["rubric", "exact_match"]
    found = scorer_of(names, rubric=RUBRIC)
    assert columns_of(found).required == {"limit"}
    scores = score_of(found, "", "Yes", "Yes", {"limit": 2})
    assert scores == {"rubric.mean": 1.0, "rubric.short": 1.0, "rubric.no_shouting": 1.0, "exact_match": 1.0}
    assert figures_of(names, RUBRIC) == [f"score/{name}" for name in scores]


def test_a_value_of_a_row_that_can_not_be_used_is_named() -> None:
    with refused(RecipeError, "'short'", "`limit`", "'many'"):
        score_of(scorer_of(["rubric"], rubric=RUBRIC), "", "", "Yes", {"limit": "many"})


def test_without_a_rubric_it_is_refused() -> None:
    with refused(RecipeError, "`scorer: rubric`", "`rubric`"):
        scorer_of(["rubric"])
    assert figures_of(["rubric"]) is None


@pytest.mark.parametrize("name", ["json", "python_tests"])
def test_other_scorers_have_the_same_figures_with_a_rubric(name: str) -> None:
    assert figures_of([name], RUBRIC) == figures_of([name])
