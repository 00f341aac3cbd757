"""GSM8K's scores match values worked out by hand, also on every answer in its published data."""

import json
from pathlib import Path

import pytest

from spin_trl.evaluation.scorers import gsm8k
from spin_trl.evaluation.scorers.gsm8k import final_answer, has_answer_line, has_format

GSM8K = Path(__file__).parents[4] / "shared" / "data" / "gsm8k"


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
        ("Working.\n#### 18\nMore.", True, False),  # continues after the answer
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
        ("Working.\n#### 1200.0", {"exact_match": 0.0, "answer_line": 1.0, "format": 1.0}),  # unchanged: no arithmetic
        ("#### 1200", {"exact_match": 1.0, "answer_line": 1.0, "format": 0.0}),
        ("It is 1200", {"exact_match": 0.0, "answer_line": 0.0, "format": 0.0}),
        ("", {"exact_match": 0.0, "answer_line": 0.0, "format": 0.0}),
    ],
)
def test_three_scores_of_an_answer(generated, expected):
    assert gsm8k("How many eggs?", REAL, generated) == expected


def test_data_without_answer_lines_gets_no_scores():
    """Rates that the data can't have would only look like failures."""
    assert gsm8k("How are you?", "Fine, thanks.", "Fine.\n#### 3") == {}


@pytest.mark.parametrize("split", PUBLISHED)
def test_every_published_answer_is_right_and_in_format(split):
    path = GSM8K / f"{split}.jsonl"
    if not path.exists():
        pytest.skip(f"GSM8K's {split}.jsonl is not at ../shared/data/gsm8k next to the repository")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == PUBLISHED[split]
    for previous, row in zip(rows[-1:] + rows, rows, strict=False):
        assert gsm8k(row["question"], row["answer"], row["answer"]) == RIGHT, row
        # Another problem's answer has the right format, and is right only by chance.
        found = gsm8k(row["question"], row["answer"], previous["answer"])
        same = float(row["answer"].split("\n#### ")[1].replace(",", "")) == float(
            previous["answer"].split("\n#### ")[1].replace(",", "")
        )
        assert found == {**RIGHT, "exact_match": float(same)}, row
