"""Scorers, by hand, and GSM8K's against every answer that it has published."""

import json
from pathlib import Path

import pytest

from messages import refused
from spin_trl.errors import DataError, RecipeError
from spin_trl.evaluation.scorers import exact_match, gsm8k, valid_json
from spin_trl.evaluation.scorers.boxed import boxed_answer
from spin_trl.evaluation.scorers.choice import choice_letter
from spin_trl.evaluation.scorers.gsm8k import final_answer, has_answer_line, has_format
from spin_trl.evaluation.scorers.last_number import last_number, last_number_in
from spin_trl.evaluation.scoring import figures_of, scorer_names, scorer_of

GSM8K = Path(__file__).parents[3] / "shared" / "data" / "gsm8k"
PUBLISHED = {"train": 7473, "test": 1319}

REAL = "She has 2 * 600 = <<2*600=1200>>1,200 eggs.\n#### 1,200"
RIGHT = {"exact_match": 1.0, "answer_line": 1.0, "format": 1.0}


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("Working.\n#### 18", "18"),
        ("Working.\n#### 1,234,567", "1234567"),
        ("#### 1\nNo, wait.\n#### -2.50", "-2.50"),
        ("Working.\n####  18 \nand more", "18"),
        ("It is #### 7", "7"),
        ("Working.\n#### 18 dollars", "18 dollars"),
        ("Working.\n#### ", None),
        ("Working.\n####18", None),
        ("18", None),
        ("", None),
    ],
)
def test_the_final_answer_stands_behind_the_last_mark_without_commas(response, expected):
    assert final_answer(response) == expected


@pytest.mark.parametrize(
    ("response", "answer_line", "whole_format"),
    [
        (REAL, True, True),
        ("Working.\n\n#### -0.5", True, True),
        ("#### 18", True, False),  # no working
        ("Working.\n#### 18\nMore.", True, False),  # goes on behind the answer
        ("Working.\n#### 18\n#### 18", True, False),
        ("Working.\n#### eighteen", True, False),
        ("Working.\n#### 18 dollars", True, False),
        ("Working.\n#### ", False, False),
        ("Working is #### 18", False, False),  # not at the start of a line
        ("Working.\n####18", False, False),
        ("Working.", False, False),
        ("", False, False),
    ],
)
def test_an_answer_line_is_a_line_and_the_format_is_all_of_it(response, answer_line, whole_format):
    assert has_answer_line(response) is answer_line
    assert has_format(response) is whole_format


@pytest.mark.parametrize(
    ("generated", "expected"),
    [
        (REAL, RIGHT),
        ("Quite another way.\n#### 1200", RIGHT),
        ("Working.\n#### 12", {"exact_match": 0.0, "answer_line": 1.0, "format": 1.0}),
        ("Working.\n#### 1200.0", {"exact_match": 0.0, "answer_line": 1.0, "format": 1.0}),  # as it is: no arithmetic
        ("#### 1200", {"exact_match": 1.0, "answer_line": 1.0, "format": 0.0}),
        ("It is 1200", {"exact_match": 0.0, "answer_line": 0.0, "format": 0.0}),
        ("", {"exact_match": 0.0, "answer_line": 0.0, "format": 0.0}),
    ],
)
def test_three_scores_of_an_answer(generated, expected):
    assert gsm8k("How many eggs?", REAL, generated) == expected


def test_data_without_answer_lines_gets_no_scores():
    """Rates of what the data does not have would only look like failures."""
    assert gsm8k("How are you?", "Fine, thanks.", "Fine.\n#### 3") == {}


@pytest.mark.parametrize("split", PUBLISHED)
def test_every_published_answer_is_right_and_in_format(split):
    path = GSM8K / f"{split}.jsonl"
    if not path.exists():
        pytest.skip(f"GSM8K's {split}.jsonl is not at ../shared/data/gsm8k beside the repository")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == PUBLISHED[split]
    for previous, row in zip(rows[-1:] + rows, rows, strict=False):
        assert gsm8k(row["question"], row["answer"], row["answer"]) == RIGHT, row
        # Another problem's answer is in format, and right only by chance.
        found = gsm8k(row["question"], row["answer"], previous["answer"])
        same = float(row["answer"].split("\n#### ")[1].replace(",", "")) == float(
            previous["answer"].split("\n#### ")[1].replace(",", "")
        )
        assert found == {**RIGHT, "exact_match": float(same)}, row


# ---- answers of other tasks -----------------------------------------------------------------------------------------


def test_an_exact_match_is_one_whatever_the_spaces() -> None:
    assert exact_match("", "a  b\n", " a b") == 1.0
    assert exact_match("", "a b", "ab") == 0.0
    assert exact_match("", "A", "a") == 0.0


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (r"So \boxed{42}.", "42"),
        (r"\boxed{1}, no: \boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{ x + 1 }", "x+1"),
        (r"\boxed{\{1, 2\}}", r"\{1,2\}"),
        (r"\boxed{cut off", None),
        ("42", None),
        ("", None),
    ],
)
def test_the_boxed_answer(response: str, expected: str | None) -> None:
    """The last one, with the braces in it; an answer that was cut in its box has none."""
    assert boxed_answer(response) == expected


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("12 apples and 3.50 pears", "3.50"),
        ("It is 1,234.", "1234"),
        ("-5 degrees", "-5"),
        ("from 3 to -2.5", "-2.5"),
        ("between 3-4", "4"),
        ("on 2024-11-21", "21"),
        ("it is .5", "0.5"),
        ("x=-7", "-7"),
        ("none", None),
    ],
)
def test_the_last_number(response: str, expected: str | None) -> None:
    found = last_number_in(response)
    assert (None if found is None else str(found)) == expected


def test_numbers_are_equal_by_value() -> None:
    score = last_number
    assert score("", "It costs 3.5.", "So 3.50 in all") == 1.0
    assert score("", "1,000", "1000") == 1.0
    assert score("", "1000", "1001") == 0.0
    assert score("", "no number", "7") == {}
    assert score("", "7", "no number") == 0.0


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("B", "B"),
        ("(c) because it is larger", "C"),
        ("D. It is larger.", "D"),
        ("The answer is A, not B.", "A"),
        ("Answer: (b)", "B"),
        ("The correct choice is **C**", "C"),
        ("A man walks in. I say the answer is D", "D"),
        ("I think that it must be C", "C"),
        ("Is it A? No, E", "E"),
        ("The answer is a bit tricky. It is B.", "B"),
        ("Answer: I think it is C.", "C"),
        ("The correct answer is (B), not option a.", "B"),
        ("Answer: d", "D"),
        ("answer: b\nbecause", "B"),
        ("a good day", None),
        ("I don't know", None),
        ("", None),
    ],
)
def test_the_letter_that_is_chosen(response: str, expected: str | None) -> None:
    assert choice_letter(response) == expected


def test_json_is_the_whole_response() -> None:
    assert valid_json("", "", '{"a": [1, 2]}') == 1.0
    assert valid_json("", "", ' "text" ') == 1.0
    assert valid_json("", "", 'Here: {"a": 1}') == 0.0
    assert valid_json("", "", "{'a': 1}") == 0.0
    assert valid_json("", "", "") == 0.0
    assert valid_json("", "", "[" * 5000) == 0.0


# ---- what a recipe names --------------------------------------------------------------------------------------------


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
