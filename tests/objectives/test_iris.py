"""IRIS's values, gradients, order by iteration and allowed settings match independent arithmetic."""

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import mpmath
import pytest
import torch

from log_ratios import ORDERS, PAIRS, gradients, logps, of_logps
from messages import refused
from spin_trl.errors import RecipeError
from spin_trl.objectives.iris import (
    GAP_BOUNDS,
    GEOMETRIC_BOUNDS,
    IRIS_LOSS,
    PUBLISHED,
    SCHEDULES,
    IrisSettings,
    effective_sample_size,
    iris,
    iris_figures,
    order,
)

pytestmark = pytest.mark.numeric


def renyi(real: list[float], generated: list[float], alpha: float) -> mpmath.mpf:
    """Compute IRIS as the paper writes it (arXiv 2604.20933, eq. 5), and its limit at order 1, to 60 digits."""
    exact = mpmath.mpf(alpha)
    penalty = mpmath.log(mpmath.fsum(mpmath.exp(exact * z) for z in generated) / len(generated)) / exact
    if exact == 1:
        return penalty - mpmath.fsum(real) / len(real)
    reward = mpmath.log(mpmath.fsum(mpmath.exp((exact - 1) * z) for z in real) / len(real)) / (exact - 1)
    return penalty - reward


BATCH = ([0.3, -4.0, 11.0, 0.0, 2.5], [-0.2, 1.5, -30.0, 0.0, 4.0])
"""Log-ratios of five pairs."""


@pytest.mark.parametrize("alpha", ORDERS)
def test_iris_starts_at_zero(alpha: float) -> None:
    """This holds for every order, at an iteration's first step."""
    same = logps(-12.5, -3.0, -7.0)
    assert of_logps(iris, same, same - 1, same, same - 1, alpha=alpha).item() == pytest.approx(0, abs=1e-14)


@pytest.mark.parametrize("alpha", ORDERS)
@pytest.mark.parametrize("batch", [BATCH, ([600.0, -600.0, 0.0], [599.0, -1.0, -600.0])], ids=["small", "large"])
def test_iris_is_the_papers_formula(batch: tuple[list[float], list[float]], alpha: float) -> None:
    """There is one loss for the batch, also where the paper's exponentials would overflow."""
    loss = iris(logps(*batch[0]), logps(*batch[1]), alpha=alpha)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(float(renyi(*batch, alpha)), rel=1e-12)


@pytest.mark.parametrize("alpha", ORDERS)
def test_iris_weighs_the_pairs_by_their_tilted_log_ratios(alpha: float) -> None:
    """Eq. 7 and 8: softmax((alpha - 1) * r) pushes up and softmax(alpha * r') down, which sum to -1 and +1."""
    up, down = gradients(partial(iris, alpha=alpha), *(logps(*values) for values in BATCH))
    for found, values, sign, tilt in ((up, BATCH[0], -1, alpha - 1), (down, BATCH[1], 1, alpha)):
        weights = [mpmath.exp(mpmath.mpf(tilt) * z) for z in values]
        expected = [sign * float(weight / mpmath.fsum(weights)) for weight in weights]
        assert found == pytest.approx(expected, rel=1e-10)
        assert sum(found) == pytest.approx(sign, rel=1e-12)


@pytest.mark.parametrize("alpha", [0.9991, 0.99999, 1 - 1e-12, 1.0, 1 + 1e-12, 1.00001, 1.0009])
def test_iris_of_an_order_near_one_is_its_limit(alpha: float) -> None:
    """It is the mean of r, where the formula itself divides by nearly nothing; the gradient is that of the mean."""
    loss = iris(*(logps(*values) for values in BATCH), alpha=alpha)
    penalty = float(renyi([0.0], BATCH[1], alpha))
    assert loss.item() == pytest.approx(penalty - math.fsum(BATCH[0]) / 5, rel=1e-12)
    up, down = gradients(partial(iris, alpha=alpha), *(logps(*values) for values in BATCH))
    assert up == pytest.approx([-0.2] * 5, rel=1e-12)
    assert all(map(math.isfinite, down))


@pytest.mark.parametrize("edge", [0.999, 1.001])
def test_iris_is_continuous_where_its_limit_begins(edge: float) -> None:
    """The step is at most a little more than half of 1e-3 times the variance of r, the next term of the expansion."""
    real, generated = (logps(*values) for values in BATCH)
    inside, outside = (1 + (edge - 1) * factor for factor in (0.9999, 1.0001))
    step = iris(real, generated, alpha=outside).item() - iris(real, generated, alpha=inside).item()
    assert abs(step) <= 1.05 * 0.0005 * real.var(correction=0).item()
    for alpha in (inside, outside):
        assert iris(real, generated, alpha=alpha).item() == pytest.approx(float(renyi(*BATCH, alpha)), abs=0.02)


@pytest.mark.parametrize("alpha", ORDERS)
@pytest.mark.parametrize(("r", "generated"), PAIRS)
def test_iris_of_one_pair_has_no_order(r: float, generated: float, alpha: float) -> None:
    """The loss is r' - r for any alpha: the order only acts between pairs."""
    assert iris(logps(r), logps(generated), alpha=alpha).item() == pytest.approx(generated - r, rel=1e-12)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [([1, 1, 1, 1], 4.0), ([1, 1, 2], 16 / 6), ([1, 0, 0], 1.0), ([3], 1.0), ([1, 2, 3, 4], 100 / 30)],
    ids=str,
)
def test_effective_sample_size_by_hand(weights: list[int], expected: float) -> None:
    """It is (sum w)^2 / sum w^2, for any common factor of the weights."""
    log_weights = torch.tensor(weights, dtype=torch.float64).log()
    for shift in (0.0, -3.0, 5e3):
        assert effective_sample_size(log_weights + shift).item() == pytest.approx(expected, rel=1e-9)


def test_figures_of_iris_by_hand() -> None:
    """At order 2, weights 1 and 2 of the real pairs are worth 9/5, and 1 and 9 of the generated ones 100/82."""
    figures = iris_figures(logps(0.0, math.log(2)), logps(0.0, math.log(3)), alpha=2.0)
    assert {name: value.item() for name, value in figures.items()} == pytest.approx(
        {"iris/alpha": 2.0, "iris/ess_real": 9 / 5, "iris/ess_generated": 100 / 82}, rel=1e-12
    )


def test_at_order_one_every_real_pair_counts_alike() -> None:
    """Order 3 on distant log-ratios leaves one pair in play, as the figures show."""
    real, generated = logps(0.0, 50.0, -50.0), logps(10.0, -20.0, 300.0)
    one, three = (iris_figures(real, generated, alpha=alpha) for alpha in (1.0, 3.0))
    assert one["iris/ess_real"].item() == pytest.approx(3, rel=1e-12)
    assert three["iris/ess_real"].item() == pytest.approx(1, rel=1e-12)
    assert three["iris/ess_generated"].item() == pytest.approx(1, rel=1e-12)


# ---- orders --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gap", "alpha"),
    [(0.0, 1.0), (1.0, 1.5), (2.6, 2.3), (4.0, 3.0), (40.0, 3.0), (-0.5, 0.75), (-1.0, 0.5), (-7.0, 0.5)],
)
def test_the_order_follows_the_gap(gap: float, alpha: float) -> None:
    """It is 1 + 0.5 * gap, between 0.5 and 3 (eq. 9)."""
    assert order("gap", None, 1, 5, gap) == pytest.approx(alpha, rel=1e-15)


def test_before_any_gap_the_order_is_the_largest() -> None:
    """At iteration 0 every log-ratio is 0; the paper's tables begin with the largest order."""
    assert order("gap", None, 0, 5, None) == 3.0
    assert order("gap", [0.8, 2.5], 0, 5, None) == 2.5


@pytest.mark.parametrize(("gap", "alpha"), [(0.0, 1.2), (1.0, 1.5), (3.0, 2.0), (-9.0, 1.2)])
def test_the_bounds_of_the_gap_can_be_set(gap: float, alpha: float) -> None:
    """The smallest and largest order replace the paper's."""
    assert order("gap", [1.2, 2.0], 3, 5, gap) == pytest.approx(alpha, rel=1e-15)


@pytest.mark.parametrize("iteration", [0, 1, 9])
def test_the_gap_counts_and_not_the_iteration(iteration: int) -> None:
    """A run that was resumed measures the same gap and continues with the same order."""
    assert order("gap", None, iteration, 10, 1.0) == 1.5


def test_geometric_orders_fall_by_equal_factors() -> None:
    """From 2.5 to 0.8 over five iterations, each order is the fourth root of 0.32 times the one before (eq. 10)."""
    found = [order("geometric", None, iteration, 5, None) for iteration in range(5)]
    assert found == pytest.approx([2.5, 1.8803015465431968, 1.4142135623730951, 1.0636591793889977, 0.8], rel=1e-12)
    factors = [later / earlier for earlier, later in pairwise(found)]
    assert factors == pytest.approx([0.32**0.25] * 4, rel=1e-12)


def test_geometric_orders_run_between_given_bounds() -> None:
    """From 4 to 1 over three iterations, the orders are 4, 2, 1; a gap changes nothing."""
    assert [order("geometric", [1.0, 4.0], i, 3, 17.0) for i in range(3)] == pytest.approx([4.0, 2.0, 1.0], rel=1e-15)


def test_one_geometric_iteration_has_the_largest_order() -> None:
    """There is no later iteration to decrease to."""
    assert order("geometric", None, 0, 1, None) == 2.5


def test_published_orders_are_those_of_the_papers_table() -> None:
    """They are those of table 4, Zephyr-7B, iterations 0 to 4; beyond it the last one applies."""
    assert [order("published", None, i, 8, 2.0) for i in range(8)] == [3.0, 1.7, 1.4, 1.1, 0.7, 0.7, 0.7, 0.7]


def test_one_fixed_order_holds_in_every_iteration() -> None:
    """It does not depend on the gap."""
    assert [order("fixed", [1.5], i, 3, gap) for i, gap in enumerate((None, -3.0, 8.0))] == [1.5] * 3


def test_fixed_orders_may_differ_by_iteration() -> None:
    """There is one for each; beyond the list, its last applies."""
    assert [order("fixed", [2.0, 1.0, 0.5], i, 5, None) for i in range(5)] == [2.0, 1.0, 0.5, 0.5, 0.5]


def test_the_papers_numbers_are_the_papers() -> None:
    """They are in the section on the adaptive schedule, its ablation, and table 4 (arXiv 2604.20933)."""
    assert (GAP_BOUNDS, GEOMETRIC_BOUNDS, PUBLISHED) == ((0.5, 3.0), (0.8, 2.5), (3.0, 1.7, 1.4, 1.1, 0.7))
    assert SCHEDULES == ("gap", "geometric", "published", "fixed")


@pytest.mark.parametrize("gap", [math.inf, -math.inf])
def test_no_gap_leads_out_of_the_bounds(gap: float) -> None:
    """Not even that of a run that has diverged does."""
    assert order("gap", None, 1, 3, gap) in GAP_BOUNDS


def test_a_gap_that_is_no_number_does_not_become_the_order() -> None:
    """Otherwise every later loss of the run would be NaN."""
    assert 0.5 <= order("gap", None, 1, 3, math.nan) <= 3.0


# ---- accepted values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        ("gap", None),
        ("gap", [0.5, 3.0]),
        ("gap", [1.0, 1.0]),
        ("geometric", None),
        ("geometric", [0.8, 2.5]),
        ("published", None),
        ("fixed", [1.0]),
        ("fixed", [2.0, 1.0, 0.5]),
    ],
    ids=str,
)
def test_what_a_schedule_takes(schedule: str, values: Sequence[float] | None) -> None:
    """It takes bounds, or orders, or nothing."""
    IRIS_LOSS.check(IrisSettings(schedule, values))


@pytest.mark.parametrize(
    ("schedule", "values", "parts"),
    [
        ("annealed", None, ("`iris_schedule`", "'annealed'", *map(repr, SCHEDULES))),
        ("fixed", [1.0, 0.0], ("`iris_alpha`", "[1.0, 0.0]", "positive")),
        ("gap", [-0.5, 3.0], ("`iris_alpha`", "[-0.5, 3.0]", "positive")),
        ("fixed", None, ("`iris_schedule: fixed`", "`iris_alpha`")),
        ("fixed", [], ("`iris_schedule: fixed`", "`iris_alpha`")),
        ("published", [3.0], ("`iris_alpha`", "`iris_schedule: published`", "`fixed`")),
        ("gap", [1.5], ("`iris_alpha`", "[1.5]", "`iris_schedule: gap`")),
        ("gap", [3.0, 0.5], ("`iris_alpha`", "[3.0, 0.5]", "`iris_schedule: gap`")),
        ("gap", [], ("`iris_alpha`", "[]", "`iris_schedule: gap`")),
        ("geometric", [0.5, 1.0, 3.0], ("`iris_alpha`", "[0.5, 1.0, 3.0]", "`iris_schedule: geometric`")),
    ],
    ids=lambda value: None if isinstance(value, tuple) else str(value),
)
def test_what_a_schedule_refuses(schedule: str, values: Sequence[float] | None, parts: tuple[str, ...]) -> None:
    """The error has the value, and what is accepted instead."""
    with refused(RecipeError, *parts):
        IRIS_LOSS.check(IrisSettings(schedule, values))


def test_not_a_number_is_no_order() -> None:
    """NaN fails every comparison."""
    with refused(RecipeError, "`iris_alpha`", "[nan]", "positive"):
        IRIS_LOSS.check(IrisSettings("fixed", [math.nan]))
