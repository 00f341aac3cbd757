"""The scorer finds the last number of a response, and decides whether two numbers are equal."""

import pytest

from spin_trl.evaluation.scorers.last_number import last_number, last_number_in


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
