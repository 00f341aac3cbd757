"""The order of IRIS, iteration by iteration, against values worked out by hand; and what `iris_alpha` may be."""

import math
from collections.abc import Sequence
from itertools import pairwise

import pytest

from messages import refused
from spin_trl.errors import RecipeError
from spin_trl.objectives.iris_order import GAP_BOUNDS, GEOMETRIC_BOUNDS, PUBLISHED, SCHEDULES, check_iris_alpha, order

# ---- orders --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gap", "alpha"),
    [(0.0, 1.0), (1.0, 1.5), (2.6, 2.3), (4.0, 3.0), (40.0, 3.0), (-0.5, 0.75), (-1.0, 0.5), (-7.0, 0.5)],
)
def test_the_order_follows_the_gap(gap: float, alpha: float) -> None:
    """1 + 0.5 * gap, between 0.5 and 3 (eq. 9)."""
    assert order("gap", None, 1, 5, gap) == pytest.approx(alpha, rel=1e-15)


def test_before_any_gap_the_order_is_the_largest() -> None:
    """At iteration 0 every log-ratio is 0; the paper's tables begin with the largest order."""
    assert order("gap", None, 0, 5, None) == 3.0
    assert order("gap", [0.8, 2.5], 0, 5, None) == 2.5


@pytest.mark.parametrize(("gap", "alpha"), [(0.0, 1.2), (1.0, 1.5), (3.0, 2.0), (-9.0, 1.2)])
def test_the_bounds_of_the_gap_can_be_set(gap: float, alpha: float) -> None:
    """Least and largest order, in the place of the paper's."""
    assert order("gap", [1.2, 2.0], 3, 5, gap) == pytest.approx(alpha, rel=1e-15)


@pytest.mark.parametrize("iteration", [0, 1, 9])
def test_the_gap_counts_and_not_the_iteration(iteration: int) -> None:
    """A run that was continued measures the same gap and goes on with the same order."""
    assert order("gap", None, iteration, 10, 1.0) == 1.5


def test_geometric_orders_fall_by_equal_factors() -> None:
    """From 2.5 to 0.8 over five iterations: each order is the fourth root of 0.32 times the one before (eq. 10)."""
    found = [order("geometric", None, iteration, 5, None) for iteration in range(5)]
    assert found == pytest.approx([2.5, 1.8803015465431968, 1.4142135623730951, 1.0636591793889977, 0.8], rel=1e-12)
    factors = [later / earlier for earlier, later in pairwise(found)]
    assert factors == pytest.approx([0.32**0.25] * 4, rel=1e-12)


def test_geometric_orders_run_between_given_bounds() -> None:
    """4 to 1 over three iterations: 4, 2, 1; a gap changes nothing."""
    assert [order("geometric", [1.0, 4.0], i, 3, 17.0) for i in range(3)] == pytest.approx([4.0, 2.0, 1.0], rel=1e-15)


def test_one_geometric_iteration_has_the_largest_order() -> None:
    """There is no later one to fall to."""
    assert order("geometric", None, 0, 1, None) == 2.5


def test_published_orders_are_those_of_the_papers_table() -> None:
    """Table 4, Zephyr-7B, iterations 0 to 4; beyond it the last one holds."""
    assert [order("published", None, i, 8, 2.0) for i in range(8)] == [3.0, 1.7, 1.4, 1.1, 0.7, 0.7, 0.7, 0.7]


def test_one_fixed_order_holds_in_every_iteration() -> None:
    """Whatever the gap."""
    assert [order("fixed", [1.5], i, 3, gap) for i, gap in enumerate((None, -3.0, 8.0))] == [1.5] * 3


def test_fixed_orders_may_differ_by_iteration() -> None:
    """One for each; beyond the list, its last."""
    assert [order("fixed", [2.0, 1.0, 0.5], i, 5, None) for i in range(5)] == [2.0, 1.0, 0.5, 0.5, 0.5]


def test_the_papers_numbers_are_the_papers() -> None:
    """Section on the adaptive schedule, its ablation, and table 4 (arXiv 2604.20933)."""
    assert (GAP_BOUNDS, GEOMETRIC_BOUNDS, PUBLISHED) == ((0.5, 3.0), (0.8, 2.5), (3.0, 1.7, 1.4, 1.1, 0.7))
    assert SCHEDULES == ("gap", "geometric", "published", "fixed")


@pytest.mark.parametrize("gap", [math.inf, -math.inf])
def test_no_gap_leads_out_of_the_bounds(gap: float) -> None:
    """Not even a run that has diverged."""
    assert order("gap", None, 1, 3, gap) in GAP_BOUNDS


def test_a_gap_that_is_no_number_does_not_become_the_order() -> None:
    """Otherwise every later loss of the run would be NaN."""
    assert 0.5 <= order("gap", None, 1, 3, math.nan) <= 3.0


# ---- what is taken -------------------------------------------------------------------------------------------------------


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
    """Bounds, or orders, or nothing."""
    check_iris_alpha(schedule, values)


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
    """With the value, and what it takes instead."""
    with refused(RecipeError, *parts):
        check_iris_alpha(schedule, values)


def test_not_a_number_is_no_order() -> None:
    """NaN compares with nothing."""
    with refused(RecipeError, "`iris_alpha`", "[nan]", "positive"):
        check_iris_alpha("fixed", [math.nan])
