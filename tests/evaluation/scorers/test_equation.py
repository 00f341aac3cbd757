"""The value of an arithmetic answer is computed exactly."""

from fractions import Fraction

import pytest

from spin_trl.evaluation.scorers.equation import LONGEST_EXPRESSION, MOST_LINES, equation, equation_value


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("9 * 8", Fraction(72)),
        ("(3 + 4) * 2 - 1", Fraction(13)),
        ("3 + 4 * 2", Fraction(11)),
        ("8 / 3", Fraction(8, 3)),
        ("-(2 - 5)", Fraction(3)),
        ("0.1 + 0.2", Fraction(3, 10)),  # 0.30000000000000004 in floats
        ("1,250 + $1,000.50", Fraction(4501, 2)),
        ("6 × 7 ÷ 2 − 1", Fraction(20)),
        ("x = 3 * 4", Fraction(12)),
        ("3 * 4 = 13", Fraction(12)),
        ("x = 3 * 4 = 12", Fraction(12)),
        ("He has 3 bags of 4.\n3 * 4\n", Fraction(12)),
        ("3 * 4\n3 * 5\nThat is all.", Fraction(15)),
        ("3 * 4\n" + "no\n" * MOST_LINES, None),
        ("5 / 0", None),
        ("3 apples", None),
        ("x", None),
        ("2 ** 9", None),
        ("1e9", None),
        ("1_000", None),
        ("2j", None),
        ("__import__('os').getpid()", None),
        ("(" * 400 + "1" + ")" * 400, None),
        ("3 *", None),
        ("\n", None),
        ("", None),
        ("1\0", None),
    ],
)
def test_the_value(response: str, expected: Fraction | None) -> None:
    assert equation_value(response) == expected


def test_long_expressions_have_no_value() -> None:
    """Up to the limit, they are computed at any depth: 500 is the sum of 500 ones."""
    assert equation_value("+".join(["1"] * 500)) == 500
    assert equation_value("+".join(["1"] * LONGEST_EXPRESSION)) is None
    assert equation_value("-" * (LONGEST_EXPRESSION - 1) + "1") in (None, -1)


def test_answers_are_compared_by_value() -> None:
    assert equation("", "(8 - 2) * 3", "3 * 6") == 1.0
    assert equation("", "(8 - 2) * 3", "8 - 2 * 3") == 0.0
    assert equation("", "(8 - 2) * 3", "I don't know") == 0.0
    assert equation("", "no equation", "3 * 6") == {}
