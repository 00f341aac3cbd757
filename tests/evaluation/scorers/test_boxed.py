"""The scorer reads the answer in a box, as in competition mathematics."""

import pytest

from spin_trl.evaluation.scorers.boxed import boxed, boxed_answer


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
    """It is the last one, including nested braces; an answer that was truncated inside its box has none."""
    assert boxed_answer(response) == expected


def test_boxes_are_compared_by_what_they_hold() -> None:
    real = r"Thus \boxed{\frac{1}{2}}."
    assert boxed("", real, r"So \boxed{ \frac{1} {2} }") == 1.0
    assert boxed("", real, r"\boxed{\frac{1}{2}} at first, then \boxed{3}") == 0.0
    assert boxed("", real, r"\frac{1}{2}") == 0.0
    assert boxed("", "no box", r"\boxed{1}") == {}
