"""Errors suggest the nearest name, and reasons against something are collected and reported together."""

import pytest

from messages import names, refused
from spin_trl.errors import DataError, RecipeError, nearest, noted, refuse_unplayable


def test_the_nearest_name_ends_a_sentence() -> None:
    ending = nearest("winrate", ["nll", "win_rate"])
    assert names(ending, "'win_rate'")
    assert ending.endswith("?")
    assert nearest("banana", ["nll", "win_rate"]) == "."
    assert names(nearest("winrate", ["nll", "win_rate"], prefix="--"), "'--win_rate'")


def test_why_something_is_refused_is_noted_and_nothing_else() -> None:
    def refuse() -> int:
        raise DataError("no rows")

    def fail() -> int:
        raise ZeroDivisionError

    reasons = ["first"]
    assert noted(reasons, lambda: 7) == 7
    assert noted(reasons, refuse) is None
    assert reasons == ["first", "no rows"]
    with pytest.raises(ZeroDivisionError):
        noted(reasons, fail)


def test_reasons_are_said_once_and_together() -> None:
    refuse_unplayable([])
    with refused(RecipeError, "one") as error:
        refuse_unplayable(["one", "one"])
    assert str(error.value) == "one"
    with refused(DataError, "2 settings") as error:
        refuse_unplayable(iter(["one", "two"]), DataError)
    assert str(error.value).splitlines()[1:] == ["- one", "- two"]
