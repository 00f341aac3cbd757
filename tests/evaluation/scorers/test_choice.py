"""The scorer finds the letter that a response to a multiple-choice question means."""

import pytest

from spin_trl.evaluation.scorers.choice import choice, choice_letter


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


def test_letters_are_compared_whatever_announces_them() -> None:
    assert choice("", "The answer is (b).", "B. Because it is larger.") == 1.0
    assert choice("", "The answer is (b).", "C") == 0.0
    assert choice("", "The answer is (b).", "a good day") == 0.0
    assert choice("", "no letter here", "B") == {}
