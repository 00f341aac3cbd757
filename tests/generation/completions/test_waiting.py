"""Backoff grows and varies, `Retry-After` is read in both forms, and limits are positive."""

import random
from datetime import UTC, datetime

import pytest

from messages import refused
from spin_trl.errors import RecipeError
from spin_trl.generation.completions.waiting import Patience, retry_after

NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        (" 120 ", 120.0),
        ("0", 0.0),
        ("Sat, 28 Nov 2026 12:00:30 GMT", 30.0),
        ("Sat, 28 Nov 2026 11:00:00 GMT", 0.0),
        ("Saturday, 28-Nov-26 12:01:00 GMT", 60.0),
        ("Sat Nov 28 12:00:05 2026", 5.0),
        ("soon", None),
        ("", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("Sat, 99 Nov 2026 12:00:30 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header, seconds):
    assert retry_after(header, NOW) == seconds


def test_an_endless_number_is_still_a_number():
    assert retry_after("9" * 400, NOW) == 999_999_999.0


def test_backoff_doubles_up_to_its_maximum_and_varies():
    patience, chance = Patience(first=0.5, longest=60.0), random.Random(0)
    for attempt, average in [(1, 0.5), (2, 1.0), (5, 8.0), (20, 40.0), (10_000, 40.0)]:
        times = [patience.backoff(attempt, chance) for _ in range(500)]
        assert 0.5 * average <= min(times) < 0.6 * average
        assert 1.4 * average < max(times) <= 1.5 * average <= 60.0


def test_an_endpoint_is_asked_again_less_and_less_often():
    patience, chance = Patience(probe=5.0, longest=60.0), random.Random(0)
    times = [patience.probing(attempt, chance) for attempt in (1, 2, 3, 4, 5, 500)]
    assert [round(time / (5 * 2**place)) for place, time in enumerate(times[:4])] == [1, 1, 1, 1]
    assert all(54 <= time <= 66 for time in times[4:])


@pytest.mark.parametrize("name", ["request", "connect", "attempts", "failures", "probe", "gone", "largest_answer"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_limit_is_a_positive_number(name, value):
    with refused(RecipeError, f"`{name}`", value):
        Patience(**{name: value})
