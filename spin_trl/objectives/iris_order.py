"""The order of IRIS from iteration to iteration (arXiv 2604.20933, section on the adaptive schedule, and its ablation).

The paper's own rule (eq. 9) sets the order from the expected reward gap, "estimated from the first mini-batch of each
iteration". There the policy still is its opponent: every log-ratio is 0, so the gap is 0 and the order 1, always; the orders
that the paper reports can't have come from it. `gap` therefore takes the gap that the iteration before has reached, on
prompts that it was not trained on, and begins with the largest order, as the paper's tables do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..errors import RecipeError

SCHEDULES = ("gap", "geometric", "published", "fixed")

GAP_SCALE = 0.5
GAP_BOUNDS = (0.5, 3.0)
"""c, and the least and the largest order, of eq. 9."""

GEOMETRIC_BOUNDS = (0.8, 2.5)
"""The least and the largest order of eq. 10, as in the paper's ablation."""

PUBLISHED = (3.0, 1.7, 1.4, 1.1, 0.7)
"""The paper's table 4, Zephyr-7B, iterations 0 to 4."""


def check_iris_alpha(schedule: str, values: Sequence[float] | None) -> None:
    """Raise unless the values of `iris_alpha` are what the schedule takes.

    Raises:
        RecipeError: they are not; the message says what it takes.
    """
    if schedule not in SCHEDULES:
        raise RecipeError(f"`iris_schedule` is {schedule!r}; it must be one of {', '.join(map(repr, SCHEDULES))}.")
    if values is not None and any(not 0 < value < math.inf for value in values):
        raise RecipeError(f"`iris_alpha` is {list(values)}; orders are positive.")
    if schedule == "fixed" and not values:
        raise RecipeError("`iris_schedule: fixed` needs `iris_alpha`: one order, or one for each iteration.")
    if schedule == "published" and values is not None:
        raise RecipeError(
            "`iris_alpha` has no meaning with `iris_schedule: published`, which has the paper's orders. Leave it out, or "
            "choose `fixed`."
        )
    if schedule in ("gap", "geometric") and values is not None and (len(values) != 2 or values[0] > values[1]):
        raise RecipeError(
            f"`iris_alpha` is {list(values)}; with `iris_schedule: {schedule}` it is the least and the largest order."
        )


def order(
    schedule: str, values: Sequence[float] | None, iteration: int, num_iterations: int, gap: float | None
) -> float:
    """The order of an iteration.

    Args:
        schedule: `gap`: clip(1 + 0.5 * gap) (eq. 9); `geometric`: from the largest down to the least, by equal factors
            (eq. 10); `published`: the paper's; `fixed`: as given.
        values: of `iris_alpha`: bounds for `gap` and `geometric` (None: the paper's), the orders themselves for `fixed`:
            one, or one for each iteration.
        iteration: 0-based. Beyond the last value of a list, that value holds.
        num_iterations: of the run.
        gap: mean log-ratio of the real responses less that of the opponent's, on held-out prompts at the end of the
            iteration before, in nats; None at iteration 0.

    Returns:
        alpha, > 0.
    """
    if schedule == "gap":
        least, largest = values or GAP_BOUNDS
        # Without a gap, or with one that is no number, the cautious start: max and min would pass NaN on.
        return largest if gap is None or math.isnan(gap) else min(max(1 + GAP_SCALE * gap, least), largest)
    if schedule == "geometric":
        least, largest = values or GEOMETRIC_BOUNDS
        # The last iteration reaches the least order ("2.5 -> 0.8").
        return largest * (least / largest) ** (iteration / max(num_iterations - 1, 1))
    orders = PUBLISHED if schedule == "published" else tuple(values or ())
    return orders[min(iteration, len(orders) - 1)]
