"""A setting is checked with its name, what was found and what is expected."""

import math
import re
from typing import Any

import pytest

from spin_trl.config.checks import as_mapping, in_range, one_of, thresholds
from spin_trl.errors import RecipeError


def test_a_choice_is_one_of_those_that_there_are() -> None:
    one_of("kind", "a", ("a", "b"))
    with pytest.raises(RecipeError, match="`kind` is 'c'; it must be one of 'a', 'b'"):
        one_of("kind", "c", ("a", "b"))


@pytest.mark.parametrize(
    ("value", "low", "high", "low_open", "expected"),
    [
        (0, 0, 1, False, None),
        (1, 0, 1, False, None),
        (1.1, 0, 1, False, "at least 0 and at most 1"),
        (-0.1, 0, math.inf, False, "at least 0"),
        (0, 0, math.inf, True, "above 0"),
        (1e-9, 0, 1, True, None),
        (2, 0, 1, True, "above 0 and at most 1"),
        (math.nan, 0, 1, False, "at least 0 and at most 1"),
    ],
)
def test_bounds_are_included_but_for_an_open_one(
    value: float, low: float, high: float, low_open: bool, expected: str | None
) -> None:
    if expected is None:
        in_range("x", value, low, high, low_open=low_open)
        return
    with pytest.raises(RecipeError, match=f"`x` is {re.escape(str(value))}; it must be {expected}\\.$"):
        in_range("x", value, low, high, low_open=low_open)


@pytest.mark.parametrize(
    ("value", "expected"), [(None, None), ({"a": 1}, {"a": 1}), ('{"a": 1}', {"a": 1}), ("{}", {})]
)
def test_a_mapping_may_be_json(value: Any, expected: Any) -> None:
    assert as_mapping("m", value) == expected


@pytest.mark.parametrize("value", ["{", "[1]", [1], 3, "a: 1"])
def test_other_values_are_no_mapping(value: Any) -> None:
    with pytest.raises(RecipeError, match=r"`m` is .*; expected a mapping"):
        as_mapping("m", value)


def test_thresholds_are_numbers_by_sign() -> None:
    """Null switches a sign off."""
    assert thresholds("t", '{"a": "0.5", "b": null}', ("a", "b")) == {"a": 0.5, "b": None}
    assert thresholds("t", None, ("a",)) == {}
    with pytest.raises(RecipeError, match="`t` is 'c'; it must be one of 'a'"):
        thresholds("t", {"c": 1}, ("a",))
    for wrong in ("high", [1]):
        with pytest.raises(RecipeError, match=r"`t` has .* for 'a'; expected a number, or null"):
            thresholds("t", {"a": wrong}, ("a",))
