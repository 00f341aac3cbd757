"""IRIS: a Rényi divergence over all pairs of an optimiser step, of an order that varies by iteration (arXiv 2604.20933).

The paper's own rule (eq. 9) sets the order from the expected reward gap, "estimated from the first mini-batch of each
iteration". But there the policy still equals its opponent: every log-ratio is 0, so the gap is always 0 and the order 1, and
the orders that the paper reports can't have come from this rule. So `gap` uses the gap that the previous iteration reached
on prompts it was not trained on, and starts with the largest order, as the paper's tables do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..counts import counted
from ..errors import RecipeError
from .base import check_positive, in_single, log_mean_exp
from .fields import setting
from .objective import Objective

NEAR_ONE = 1e-3
"""Orders of IRIS this close to 1 use the limit, since the formula itself divides by alpha - 1."""


def iris(real_logratios: torch.Tensor, generated_logratios: torch.Tensor, *, alpha: float) -> torch.Tensor:
    """IRIS (arXiv 2604.20933, eq. 5): a variational Rényi divergence of order alpha, over the whole batch.

        L = -1/(alpha - 1) * log mean exp((alpha - 1) * r) + 1/alpha * log mean exp(alpha * r')

    The gradient weights real responses by softmax((alpha - 1) * r) and generated ones by softmax(alpha * r') (eq. 7 and 8).
    It couples the pairs, so the batch should hold all pairs of one optimiser step. For a single pair it is r' - r for any
    alpha.

    Args:
        real_logratios, generated_logratios: r and r', shape `(batch,)`, in nats.
        alpha: order, > 0. Within 1e-3 of 1 the limit is used, the mean of r.

    Returns:
        One loss for the batch, shape `()`; 0 where all log-ratios are 0.

    Raises:
        ValueError: if `alpha` is not positive.
    """
    check_positive("alpha", alpha)
    tilt = alpha - 1
    reward = real_logratios.mean() if abs(tilt) < NEAR_ONE else log_mean_exp(tilt * real_logratios) / tilt
    return log_mean_exp(alpha * generated_logratios) / alpha - reward


def effective_sample_size(log_weights: torch.Tensor) -> torch.Tensor:
    """Return how many equally weighted samples these weights are worth: (sum w)^2 / sum w^2 (Kish).

    Args:
        log_weights: logarithms of the weights, up to a constant, shape `(batch,)`.

    Returns:
        A value between 1 and the size of the batch, shape `()`.
    """
    (wide,) = in_single(log_weights)
    return (2 * wide.logsumexp(0) - (2 * wide).logsumexp(0)).exp()


def iris_figures(
    real_logratios: torch.Tensor, generated_logratios: torch.Tensor, *, alpha: float
) -> dict[str, torch.Tensor]:
    """Return figures to monitor IRIS: its order, and how many pairs its weights leave in play. Arguments: as for [`iris`].

    Returns:
        `iris/alpha`, and the effective sample sizes `iris/ess_real` and `iris/ess_generated`, of shape `()`.
    """
    return {
        "iris/alpha": real_logratios.new_tensor(alpha),
        "iris/ess_real": effective_sample_size((alpha - 1) * real_logratios),
        "iris/ess_generated": effective_sample_size(alpha * generated_logratios),
    }


# ---- the order of each iteration -----------------------------------------------------------------------------------------

SCHEDULES = ("gap", "geometric", "published", "fixed")

GAP_SCALE = 0.5
GAP_BOUNDS = (0.5, 3.0)
"""Scale c, and the smallest and the largest order, of eq. 9."""

GEOMETRIC_BOUNDS = (0.8, 2.5)
"""Smallest and largest order of eq. 10, as in the paper's ablation."""

PUBLISHED = (3.0, 1.7, 1.4, 1.1, 0.7)
"""Orders of the paper's table 4, Zephyr-7B, iterations 0 to 4."""


def order(
    schedule: str, values: Sequence[float] | None, iteration: int, num_iterations: int, gap: float | None
) -> float:
    """Return the order of an iteration.

    Args:
        schedule: `gap`: clip(1 + 0.5 * gap) (eq. 9); `geometric`: from the largest down to the smallest, by equal factors
            (eq. 10); `published`: the paper's orders; `fixed`: the given orders.
        values: values of `iris_alpha`: for `gap` and `geometric` the bounds (None: the paper's); for `fixed` the order, or
            one for each iteration.
        iteration: 0-based. Beyond the end of a list, its last value applies.
        num_iterations: number of iterations in the run.
        gap: mean log-ratio of the real responses minus that of the opponent's, on held-out prompts at the end of the
            previous iteration, in nats; None at iteration 0.

    Returns:
        alpha, > 0.
    """
    if schedule == "gap":
        least, largest = values or GAP_BOUNDS
        # Without a gap, or if it is NaN, which max and min would pass on, start cautiously.
        return largest if gap is None or math.isnan(gap) else min(max(1 + GAP_SCALE * gap, least), largest)
    if schedule == "geometric":
        least, largest = values or GEOMETRIC_BOUNDS
        # The last iteration reaches the smallest order ("2.5 -> 0.8").
        return largest * (least / largest) ** (iteration / max(num_iterations - 1, 1))
    orders = PUBLISHED if schedule == "published" else tuple(values or ())
    return orders[min(iteration, len(orders) - 1)]


@dataclass
class IrisSettings:
    """IRIS's settings in `SPINConfig`."""

    iris_schedule: str | None = setting(
        None, "IRIS: schedule of the order over the iterations. Default: gap.", choices=SCHEDULES
    )
    iris_alpha: list[float] | None = setting(
        None,
        "IRIS: the order, or a list with one per iteration (iris_schedule: fixed); or the smallest and the largest order "
        "(gap, geometric). Default: as published.",
    )


class _Iris(Objective[IrisSettings]):
    """An objective whose order differs between iterations."""

    def check(self, settings: IrisSettings) -> None:
        """Raise RecipeError unless `iris_alpha` has the values that the schedule needs."""
        schedule, values = settings.iris_schedule, settings.iris_alpha
        if schedule not in SCHEDULES:
            raise RecipeError(f"`iris_schedule` is {schedule!r}; it must be one of {', '.join(map(repr, SCHEDULES))}.")
        if values is not None and any(not 0 < value < math.inf for value in values):
            raise RecipeError(f"`iris_alpha` is {list(values)}; orders must be positive.")
        if schedule == "fixed" and not values:
            raise RecipeError("`iris_schedule: fixed` needs `iris_alpha`: one order, or one for each iteration.")
        if schedule == "published" and values is not None:
            raise RecipeError(
                "`iris_alpha` has no effect with `iris_schedule: published`, which uses the paper's orders. Leave it out, "
                "or choose `fixed`."
            )
        if schedule in ("gap", "geometric") and values is not None and (len(values) != 2 or values[0] > values[1]):
            raise RecipeError(
                f"`iris_alpha` is {list(values)}; with `iris_schedule: {schedule}` it must be the smallest and the largest "
                "order."
            )

    def at(self, settings: IrisSettings, iteration: int, num_iterations: int, gap: float | None) -> dict[str, Any]:
        alpha = order(str(settings.iris_schedule), settings.iris_alpha, iteration, num_iterations, gap)
        return {"iris_schedule": "fixed", "iris_alpha": [alpha]}

    def asks_for_gap(self, settings: IrisSettings) -> str:
        return "iris_schedule: gap" if settings.iris_schedule == "gap" else ""

    def depends_on_length(self, settings: IrisSettings) -> bool:
        return settings.iris_schedule == "geometric"  # its last iteration has the smallest order

    def against_length(self, settings: IrisSettings, num_iterations: int, is_smoke: bool) -> Sequence[str]:
        orders = settings.iris_alpha if settings.iris_schedule == "fixed" else None
        if orders is None or len(orders) in (1, num_iterations) or (is_smoke and len(orders) > num_iterations):
            return ()
        return [
            f"`iris_alpha` has {counted(len(orders), 'value')} for {counted(num_iterations, 'iteration')}: "
            f"{orders}. Give one order for all iterations, or one for each."
        ]


IRIS_LOSS = _Iris(
    "iris",
    "IRIS",
    r"\ell = -\tfrac{1}{\alpha - 1} \log \operatorname{mean} e^{(\alpha - 1) r}"
    r" + \tfrac{1}{\alpha} \log \operatorname{mean} e^{\alpha r'}",
    "2604.20933",
    "The means are over the pairs of an optimiser step.",
    function=iris,
    published=IrisSettings(iris_schedule="gap", iris_alpha=None),
    couples_pairs=True,
    figures=iris_figures,
)
