"""A recipe can name scorers, and their results are used as documented."""

import math
from dataclasses import replace

import pytest

from messages import refused
from spin_trl.errors import DataError, RecipeError
from spin_trl.evaluation.scorers import exact_match, gsm8k, valid_json
from spin_trl.evaluation.scoring import (
    AnswerToScore,
    ManyAtOnce,
    Permission,
    ScorerColumns,
    SeveralScorers,
    columns_of,
    compared,
    figures_of,
    layers_of,
    notes_on,
    runs_generated_code,
    score_of,
    scorer_names,
    scorer_of,
    scores_of,
    takes_rubric,
)

REAL = "She has 2 * 600 = <<2*600=1200>>1,200 eggs.\n#### 1,200"


def length(prompt: str, real: str, generated: str) -> float:
    """Score by length, as a user's own scorer."""
    return float(len(generated))


def test_one_scorer_is_itself() -> None:
    assert scorer_of(["gsm8k"]) is gsm8k
    assert scorer_of([f"{__name__}:length"]) is length
    found = scorer_of([r"regex:^\d+$"])
    assert (found("", "", "12"), found("", "", "12 apples")) == (1.0, 0.0)


def test_several_scorers_return_their_numbers_by_name() -> None:
    """Named numbers are prefixed with the scorer's name, so none overwrites another."""
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


@pytest.mark.parametrize(
    "name", [name for name in scorer_names() if not (runs_generated_code(name) or takes_rubric(name))]
)
def test_a_scorer_is_its_module_and_gives_the_figures_that_it_says(name: str) -> None:
    """For all modules of the folder, the names of the figures are known before anything is scored."""
    answer = "3 + 2\n\\boxed{5} is the answer: B\n#### 5"
    found = scorer_of([name])("", answer, answer)
    named = [f"score/{part}" for part in found] if isinstance(found, dict) else ["score"]
    assert figures_of([name]) == named
    assert set(found.values() if isinstance(found, dict) else [found]) <= {0.0, 1.0}


def test_a_scorer_of_a_frozen_recipe_is_found_by_its_old_name() -> None:
    """Runs of earlier versions may name them as `module:function`."""
    for name, function in (("gsm8k", gsm8k), ("exact_match", exact_match), ("valid_json", valid_json)):
        assert scorer_of([f"spin_trl.evaluation.scorers:{name}"]) is function


def test_an_answer_is_compared_only_where_the_real_response_has_one() -> None:
    assert [compared("7", "7"), compared("7", "8"), compared("7", None)] == [1.0, 0.0, 0.0]
    assert compared(None, "7") == compared(None, None) == {}


class Odd:
    """Object of a user's class that is not a number, and raises its own error."""

    def __float__(self) -> float:
        raise KeyError("no number")


@pytest.mark.parametrize("value", ["right", None, [1.0], Odd(), {"a"}])
def test_a_score_that_is_no_number_is_nan(value: object) -> None:
    """It is counted, and the run continues."""
    assert math.isnan(score_of(lambda *texts: value, "", "", ""))  # type: ignore[arg-type, return-value]
    named = score_of(lambda *texts: {"a": value, "b": "0.5", 3: True}, "", "", "")  # type: ignore[arg-type, dict-item, return-value]
    assert isinstance(named, dict)
    assert math.isnan(named["a"])
    assert {name: value for name, value in named.items() if name != "a"} == {"b": 0.5, "3": 1.0}


@pytest.mark.parametrize("error", [ZeroDivisionError("by nought"), SystemExit(3)])
def test_a_scorer_that_fails_is_named_with_its_line_and_what_it_was_given(error: BaseException) -> None:
    def fail(prompt: str, real: str, generated: str) -> float:
        raise error

    with refused(RecipeError, type(error).__name__, "test_scoring.py", "'Why?'", "'So.'", "'" + "x" * 60 + "'"):
        score_of(fail, "Why?", "So.", "x" * 100)


def test_a_name_that_can_not_be_written_is_refused() -> None:
    with refused(RecipeError, "UTF-8", "'Why?'"):
        score_of(lambda *texts: {"\ud800": 1.0}, "Why?", "", "")


def test_figures_are_known_without_calling_anything() -> None:
    assert figures_of(["boxed"]) == ["score"]
    assert figures_of(["regex:a", "gsm8k"]) == [
        "score/a", "score/gsm8k.exact_match", "score/gsm8k.answer_line", "score/gsm8k.format"
    ]  # fmt: skip
    assert figures_of(["boxed", f"{__name__}:length"]) is None
    assert figures_of(["judge"]) is None, "the names of its criteria are not known"
    assert figures_of(["judge"], judged=["clear"]) == ["score/judge", "score/judge.clear"]
    assert figures_of(["judge", "json"], judged=["clear"]) == ["score/judge", "score/judge.clear", "score/json"]


def by_level(prompt: str, real: str, generated: str, level: int, *, unit: str = "m") -> dict[str, float]:
    """Scorer that takes columns."""
    return {unit: float(level)}


def by_row(p: str, r: str, g: str, **row: object) -> float:
    """Scorer that takes the whole row."""
    return float(len(row))


def test_parameters_after_the_texts_are_columns() -> None:
    """They work like those of TRL's reward functions. A method's `self` is not one, nor is an argument that a partial
    already sets.
    """
    assert columns_of(by_level) == ScorerColumns(frozenset({"level"}), frozenset({"unit"}))
    assert columns_of(length) == ScorerColumns()
    assert columns_of(by_row) == ScorerColumns(others=frozenset({"p", "r", "g"}))
    assert columns_of(Holder().score) == ScorerColumns(frozenset({"level"}))
    assert columns_of(max) == ScorerColumns()
    data = ["prompt", "p", "level", "unit"]
    assert [columns_of(scorer).among(data) for scorer in (by_level, by_row, length)] == [
        ["level", "unit"],
        ["prompt", "level", "unit"],
        [],
    ]


class Holder:
    """Class that scores with a method."""

    def score(self, prompt: str, real: str, generated: str, level: int) -> float:
        return float(level)


class Together(ManyAtOnce):
    """A scorer that scores all answers at once, and remembers how many it was given."""

    def __init__(self) -> None:
        self.given: list[int] = []

    def __call__(self, prompt: str, real: str, generated: str, level: int = 0) -> dict[str, float]:
        return {"": float(level), "length": float(len(generated))}

    def score_many(self, items, report):
        self.given.append(len(items))
        report(len(items))
        return [self(one.prompt, one.real, one.generated, **one.columns) for one in items]

    def notes(self):
        return {"calls": len(self.given)}


def test_a_scorer_that_can_gets_all_answers_at_once() -> None:
    """Alone and among others, with its own columns; the others are called as always."""
    items = [AnswerToScore("p", "r", "a" * size, {"level": size, "other": 0}) for size in (1, 2, 3)]
    together, done = Together(), []
    several = SeveralScorers({"together": together, "length": length})
    found = scores_of(several, items, done.append)
    assert found == [{"together": size, "together.length": size, "length": size} for size in (1, 2, 3)]
    assert together.given == [3]
    assert (done, notes_on(several)) == ([1, 2, 2, 3], {"calls": 1})
    plain = [replace(one, columns={}) for one in items]
    assert (scores_of(length, plain, done.append), done[4:]) == ([1, 2, 3], [1, 2, 3])
    assert notes_on(length) == notes_on(None) == {}


def test_a_scorer_that_fails_among_others_is_named_too() -> None:
    def fails(prompt: str, real: str, generated: str) -> float:
        raise ZeroDivisionError

    with refused(RecipeError, "ZeroDivisionError", "'the answer'"):
        scores_of(SeveralScorers({"fails": fails, "length": length}), [AnswerToScore("p", "r", "the answer", {})])


def test_a_judge_is_made_by_those_who_can() -> None:
    with refused(RecipeError, "`scorer: judge`"):
        scorer_of(["judge"])
    assert scorer_of(["judge"], Permission(make_judge=lambda: length)) is length
    with refused(RecipeError, "'judges'", "judge"):
        scorer_of(["judges"])


def test_several_scorers_get_their_own_columns() -> None:
    several = scorer_of([f"{__name__}:by_level", f"{__name__}:by_row", "exact_match"])
    assert isinstance(several, SeveralScorers)
    assert columns_of(several) == ScorerColumns(frozenset({"level"}), frozenset({"unit"}), frozenset({"p", "r", "g"}))
    columns = {"level": 3, "unit": "km", "other": 1}
    assert score_of(several, "", "a", "a", columns) == {"by_level.km": 3.0, "by_row": 3.0, "exact_match": 1.0}


def test_only_python_tests_runs_generated_code() -> None:
    assert [name for name in scorer_names() if runs_generated_code(name)] == ["python_tests"]
    assert not runs_generated_code(f"{__name__}:length")
    assert layers_of(scorer_of(["gsm8k", "json"])) is None
    assert layers_of(None) is None
