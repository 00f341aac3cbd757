"""A setting is checked with its name, what was found and what is expected."""

import math
from typing import Any

import pytest

from messages import names, refused
from spin_trl.config.checks import as_mapping, in_range, one_of, thresholds
from spin_trl.errors import RecipeError


def test_a_choice_is_one_of_those_that_there_are() -> None:
    one_of("kind", "a", ("a", "b"))
    with refused(RecipeError, "`kind`", "'c'", "'a'", "'b'"):
        one_of("kind", "c", ("a", "b"))


@pytest.mark.parametrize(
    ("value", "low", "high", "low_open", "expected"),
    [
        (0, 0, 1, False, None),
        (1, 0, 1, False, None),
        (1.1, 0, 1, False, ("at least 0", "at most 1")),
        (-0.1, 0, math.inf, False, ("at least 0",)),
        (0, 0, math.inf, True, ("above 0",)),
        (1e-9, 0, 1, True, None),
        (2, 0, 1, True, ("above 0", "at most 1")),
        (math.nan, 0, 1, False, ("at least 0", "at most 1")),
    ],
)
def test_bounds_are_included_but_for_an_open_one(
    value: float, low: float, high: float, low_open: bool, expected: tuple[str, ...] | None
) -> None:
    if expected is None:
        in_range("x", value, low, high, low_open=low_open)
        return
    with refused(RecipeError, "`x`", value, *expected) as error:
        in_range("x", value, low, high, low_open=low_open)
    assert names(str(error.value), "at most") == (high < math.inf)


@pytest.mark.parametrize(
    ("value", "expected"), [(None, None), ({"a": 1}, {"a": 1}), ('{"a": 1}', {"a": 1}), ("{}", {})]
)
def test_a_mapping_may_be_json(value: Any, expected: Any) -> None:
    assert as_mapping("m", value) == expected


@pytest.mark.parametrize("value", ["{", "[1]", [1], 3, "a: 1"])
def test_other_values_are_no_mapping(value: Any) -> None:
    with refused(RecipeError, "`m`", "mapping"):
        as_mapping("m", value)


def test_thresholds_are_numbers_by_sign() -> None:
    """Null switches a sign off."""
    assert thresholds("t", '{"a": "0.5", "b": null}', ("a", "b")) == {"a": 0.5, "b": None}
    assert thresholds("t", None, ("a",)) == {}
    with refused(RecipeError, "`t`", "'c'", "'a'"):
        thresholds("t", {"c": 1}, ("a",))
    for wrong in ("high", [1]):
        with refused(RecipeError, "`t`", repr(wrong), "'a'", "number", "null"):
            thresholds("t", {"a": wrong}, ("a",))
