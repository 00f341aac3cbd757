"""Intervals and comparisons match numbers worked out by hand, and simulation."""

import math
import random
from collections.abc import Callable

import numpy as np
import pytest

from messages import refused
from spin_trl.evaluation.intervals import Difference, mean_and_error, of_difference, of_independent, of_mean

SAMPLES = 1000
NOMINAL = (0.93, 0.97)
"""How often a 95 % interval may contain the true value, by simulation."""


def covered(interval: Callable[[np.random.Generator], tuple[float, float]], truth: float, samples: int) -> float:
    """Return the share of samples whose interval contains the true value."""
    draw = np.random.default_rng(0)
    found = [interval(draw) for _ in range(samples)]
    return sum(low <= truth <= high for low, high in found) / samples


def test_a_mean_and_its_error_by_hand() -> None:
    """1, 2 and 6 have mean 3 and deviations 4 + 1 + 9 = 14, so a standard error of sqrt(14 / 2 / 3)."""
    assert mean_and_error([1.0, 2.0, 6.0]) == (3.0, pytest.approx(math.sqrt(7 / 3)))
    mean, error = mean_and_error([4.0])
    assert mean == 4.0
    assert math.isnan(error)


def test_a_weighted_mean_is_a_ratio_of_sums() -> None:
    """6 nats over 4 tokens are 1.5 each; residuals are 2 - 1.5 and 4 - 4.5, with their spread over 4 tokens."""
    mean, error = mean_and_error([2.0, 4.0], [1.0, 3.0])
    assert (mean, error) == (1.5, pytest.approx(math.sqrt(2 * (0.5**2 + 0.5**2)) / 4))


def test_shares_have_wilsons_interval() -> None:
    """For 8 of 10: (p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n) with z = 1.959964."""
    z, n, p = 1.959963985, 10, 0.8
    middle, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    expected = [(middle + sign * spread) / (1 + z * z / n) for sign in (-1, 1)]
    found = of_mean([1.0] * 8 + [0.0] * 2)
    assert list(found) == pytest.approx(expected)
    assert of_mean([0.0] * 20) == (0.0, pytest.approx(z * z / (20 + z * z)))


def test_other_means_have_students_interval() -> None:
    """1, 2 and 6, with two degrees of freedom, have t = 4.302653."""
    found, spread = of_mean([1.0, 2.0, 6.0]), 4.302652730 * math.sqrt(7 / 3)
    assert list(found) == pytest.approx([3 - spread, 3 + spread])


def test_no_values_have_no_interval() -> None:
    with refused(ValueError, "values"):
        of_mean([])
    with refused(ValueError, "2 values", 1):
        of_difference([1.0, 0.0], [1.0])


@pytest.mark.parametrize(("share", "prompts"), [(0.02, 1000), (0.1, 100), (0.5, 200), (0.97, 300)])
def test_the_interval_of_a_share_covers(share: float, prompts: int) -> None:
    def interval(draw: np.random.Generator) -> tuple[float, float]:
        return of_mean((draw.random(prompts) < share).astype(float).tolist())

    low, high = NOMINAL
    assert low <= covered(interval, share, SAMPLES) <= high


def test_the_interval_of_a_mean_covers() -> None:
    """The scores are between 0 and 1, and skewed."""

    def interval(draw: np.random.Generator) -> tuple[float, float]:
        return of_mean(draw.beta(2, 5, 100).tolist())

    low, high = NOMINAL
    assert low <= covered(interval, 2 / 7, SAMPLES) <= high


def test_the_interval_of_nats_per_token_covers() -> None:
    """Responses have very different lengths, and longer ones are easier per token."""

    def interval(draw: np.random.Generator) -> tuple[float, float]:
        tokens = draw.integers(5, 200, 200)
        nats = draw.gamma(2.0, 0.5, 200) * tokens**0.9
        return of_mean(nats.tolist(), tokens.tolist())

    lengths = np.arange(5, 200)
    low, high = NOMINAL
    assert low <= covered(interval, float((lengths**0.9).mean() / lengths.mean()), SAMPLES) <= high


@pytest.mark.parametrize(("before", "gains", "losses"), [(0.5, 0.1, 0.1), (0.02, 0.05, 0.01), (0.9, 0.03, 0.03)])
def test_the_interval_of_a_difference_of_shares_covers(before: float, gains: float, losses: float) -> None:
    """Out of 200 prompts, some are won and some lost from one model to the next."""

    def interval(draw: np.random.Generator) -> tuple[float, float]:
        old = draw.random(200) < before
        changed = draw.random(200)
        new = np.where(old, changed >= losses / before, changed < gains / (1 - before))
        found = of_difference(new.astype(float).tolist(), old.astype(float).tolist())
        return found.low, found.high

    low, high = NOMINAL
    assert low <= covered(interval, gains - losses, SAMPLES) <= high


@pytest.mark.parametrize("weighted", [False, True])
def test_the_interval_of_any_other_difference_covers(weighted: bool) -> None:
    """The values are correlated pairs: pairing narrows the interval, and its coverage still holds."""

    def interval(draw: np.random.Generator) -> tuple[float, float]:
        tokens = draw.integers(5, 60, 120).astype(float) if weighted else np.ones(120)
        hard = draw.gamma(2.0, 1.0, 120) * tokens
        new = hard - 0.1 * tokens + draw.normal(0, 0.3, 120) * tokens
        found = of_difference(new.tolist(), hard.tolist(), tokens.tolist() if weighted else None)
        assert found.high - found.low < 0.25
        return found.low, found.high

    low, high = NOMINAL
    assert low <= covered(interval, -0.1, SAMPLES) <= high


def test_mcnemar_by_hand() -> None:
    """8 won and 2 lost, of 30, give twice the chance of at most 2 heads in 10, (1 + 10 + 45) / 1024."""
    ours = [1.0] * 8 + [0.0] * 2 + [1.0] * 15 + [0.0] * 5
    theirs = [0.0] * 8 + [1.0] * 2 + [1.0] * 15 + [0.0] * 5
    found = of_difference(ours, theirs)
    assert found.value == pytest.approx(6 / 30)
    assert found.p == pytest.approx(2 * 56 / 1024)
    assert found.prompts == 30
    # Half a prompt is added to each cell: 8.5 and 2.5 of 32.
    error = math.sqrt(11 - 36 / 32) / 32
    assert [found.low, found.high] == pytest.approx([6 / 32 - 1.959963985 * error, 6 / 32 + 1.959963985 * error])


def test_equal_models_do_not_differ() -> None:
    """The values are the same twice, or all differ by the same amount."""
    draw = random.Random(0)
    values = [draw.random() for _ in range(50)]
    assert of_difference(values, values) == Difference(0.0, 0.0, 0.0, 1.0, 50)
    same = of_difference([1.0] * 30, [1.0] * 30)
    assert (same.value, same.p) == (0.0, 1.0)
    assert same.low < 0 < same.high


def test_a_test_of_equal_models_finds_a_difference_as_often_as_it_says() -> None:
    """About one in twenty pairs without a difference has p below 0.05."""
    draw = np.random.default_rng(1)
    p = [of_difference(draw.normal(size=40).tolist(), draw.normal(size=40).tolist()).p for _ in range(400)]
    assert 0.02 <= sum(value < 0.05 for value in p) / 400 <= 0.08


def test_a_comparison_is_the_same_each_time() -> None:
    draw = random.Random(2)
    ours, theirs = ([draw.random() for _ in range(30)] for _ in range(2))
    assert of_difference(ours, theirs) == of_difference(ours, theirs)


def test_a_difference_of_independent_means_by_hand() -> None:
    """Errors of 3 and 4 points combine to one of 5, and the interval has 1.959964 of them on either side."""
    assert of_independent(0.1, 0.03, 0.04) == pytest.approx((0.1 - 0.0979982, 0.1 + 0.0979982))
