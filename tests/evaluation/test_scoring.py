"""What a recipe names as its scorer, and what is made of what that returns."""

import pytest

from messages import refused
from spin_trl.errors import DataError, RecipeError
from spin_trl.evaluation.scorers import exact_match, gsm8k, valid_json
from spin_trl.evaluation.scoring import figures_of, scorer_names, scorer_of

REAL = "She has 2 * 600 = <<2*600=1200>>1,200 eggs.\n#### 1,200"


def length(prompt: str, real: str, generated: str) -> float:
    """A user's own scorer."""
    return float(len(generated))


def test_one_scorer_is_itself() -> None:
    assert scorer_of(["gsm8k"]) is gsm8k
    assert scorer_of([f"{__name__}:length"]) is length
    found = scorer_of([r"regex:^\d+$"])
    assert (found("", "", "12"), found("", "", "12 apples")) == (1.0, 0.0)


def test_several_scorers_return_their_numbers_by_name() -> None:
    """Named numbers keep the scorer's name before their own, so none takes another's place."""
    found = scorer_of(["exact_match", "gsm8k", r"regex:\d", f"{__name__}:length"])("", REAL, "#### 1200")
    assert found == {
        "exact_match": 0.0,
        "gsm8k.exact_match": 1.0,
        "gsm8k.answer_line": 1.0,
        "gsm8k.format": 0.0,
        r"\d": 1.0,
        "length": 9.0,
    }


def test_a_name_that_is_none_is_refused_with_those_that_are_known() -> None:
    with refused(RecipeError, "`scorer`", "'gsm9k'", *scorer_names(), "`regex:PATTERN`", "'gsm8k'"):
        scorer_of(["gsm9k"])
    with refused(RecipeError, "`scorer`", "'regex:('", "position 0"):
        scorer_of(["regex:("])
    with refused(RecipeError, "`scorer`", "twice", "'gsm8k'", "'spin_trl.evaluation.scorers:gsm8k'"):
        scorer_of(["gsm8k", "json", "spin_trl.evaluation.scorers:gsm8k"])
    with refused(DataError, "'nowhere:score'", "'nowhere'"):
        scorer_of(["nowhere:score"])


@pytest.mark.parametrize("name", scorer_names())
def test_a_scorer_is_its_module_and_gives_the_figures_that_it_says(name: str) -> None:
    """Whatever modules the folder has: the names of the figures are known before anything is scored."""
    answer = "Working.\n\\boxed{5} is the answer: B\n#### 5"
    found = scorer_of([name])("", answer, answer)
    named = [f"score/{part}" for part in found] if isinstance(found, dict) else ["score"]
    assert figures_of([name]) == named
    assert set(found.values() if isinstance(found, dict) else [found]) <= {0.0, 1.0}


def test_a_scorer_of_a_frozen_recipe_is_found_by_its_old_name() -> None:
    """`module:function`, as runs of earlier versions may name them."""
    for name, function in (("gsm8k", gsm8k), ("exact_match", exact_match), ("valid_json", valid_json)):
        assert scorer_of([f"spin_trl.evaluation.scorers:{name}"]) is function
