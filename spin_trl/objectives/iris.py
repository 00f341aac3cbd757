"""IRIS: a Rényi divergence of all pairs of an optimiser step, of an order that changes by iteration (arXiv 2604.20933).

The paper's own rule (eq. 9) sets the order from the expected reward gap, "estimated from the first mini-batch of each
iteration". There the policy still is its opponent: every log-ratio is 0, so the gap is 0 and the order 1, always; the orders
that the paper reports can't have come from it. `gap` therefore takes the gap that the iteration before has reached, on
prompts that it was not trained on, and begins with the largest order, as the paper's tables do.
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
"""Orders of IRIS this close to 1 use the limit: the formula itself divides by alpha - 1."""


def iris(real_logratios: torch.Tensor, generated_logratios: torch.Tensor, *, alpha: float) -> torch.Tensor:
    """IRIS (arXiv 2604.20933, eq. 5): a variational Rényi divergence of order alpha, over the whole batch.

        L = -1/(alpha - 1) * log mean exp((alpha - 1) * r) + 1/alpha * log mean exp(alpha * r')

    The gradient weights real responses by softmax((alpha - 1) * r) and generated ones by softmax(alpha * r') (eq. 7 and 8).
    It couples the pairs: the batch that is passed should be all that one optimiser step sees. Of one pair it is r' - r,
    whatever alpha is.

    Args:
        real_logratios, generated_logratios: r and r', shape `(batch,)`, in nats.
        alpha: the order, > 0. Within 1e-3 of 1 the limit is used: the mean of r.

    Returns:
        One loss for the batch, shape `()`; 0 where all log-ratios are 0.

    Raises:
        ValueError: `alpha` is not positive.
    """
    check_positive("alpha", alpha)
    tilt = alpha - 1
    reward = real_logratios.mean() if abs(tilt) < NEAR_ONE else log_mean_exp(tilt * real_logratios) / tilt
    return log_mean_exp(alpha * generated_logratios) / alpha - reward


def effective_sample_size(log_weights: torch.Tensor) -> torch.Tensor:
    """How many equally weighted samples these weights are worth: (sum w)^2 / sum w^2 (Kish).

    Args:
        log_weights: logarithms of the weights, up to a constant, shape `(batch,)`.

    Returns:
        Between 1 and the size of the batch, shape `()`.
    """
    (wide,) = in_single(log_weights)
    return (2 * wide.logsumexp(0) - (2 * wide).logsumexp(0)).exp()


def iris_figures(
    real_logratios: torch.Tensor, generated_logratios: torch.Tensor, *, alpha: float
) -> dict[str, torch.Tensor]:
    """What to watch of IRIS: its order, and how many pairs its weights leave in play. Arguments: [`iris`].

    Returns:
        `iris/alpha`, and the effective sample sizes `iris/ess_real` and `iris/ess_generated`, of shape `()`.
    """
    return {
        "iris/alpha": real_logratios.new_tensor(alpha),
        "iris/ess_real": effective_sample_size((alpha - 1) * real_logratios),
        "iris/ess_generated": effective_sample_size(alpha * generated_logratios),
    }


# ---- its order, from iteration to iteration ------------------------------------------------------------------------------

SCHEDULES = ("gap", "geometric", "published", "fixed")

GAP_SCALE = 0.5
GAP_BOUNDS = (0.5, 3.0)
"""c, and the least and the largest order, of eq. 9."""

GEOMETRIC_BOUNDS = (0.8, 2.5)
"""The least and the largest order of eq. 10, as in the paper's ablation."""

PUBLISHED = (3.0, 1.7, 1.4, 1.1, 0.7)
"""The paper's table 4, Zephyr-7B, iterations 0 to 4."""


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


@dataclass
class IrisSettings:
    """IRIS's part of `SPINConfig`."""

    iris_schedule: str | None = setting(
        None, "IRIS: how its order goes from iteration to iteration. Default: gap.", choices=SCHEDULES
    )
    iris_alpha: list[float] | None = setting(
        None,
        "IRIS: the order, or one for each iteration (iris_schedule: fixed); or the least and the largest order (gap, "
        "geometric). Default: as published.",
    )


class _Iris(Objective[IrisSettings]):
    """An order that an iteration has for itself."""

    def check(self, settings: IrisSettings) -> None:
        """Raise RecipeError unless the values of `iris_alpha` are what the schedule takes, with what it takes."""
        schedule, values = settings.iris_schedule, settings.iris_alpha
        if schedule not in SCHEDULES:
            raise RecipeError(f"`iris_schedule` is {schedule!r}; it must be one of {', '.join(map(repr, SCHEDULES))}.")
        if values is not None and any(not 0 < value < math.inf for value in values):
            raise RecipeError(f"`iris_alpha` is {list(values)}; orders are positive.")
        if schedule == "fixed" and not values:
            raise RecipeError("`iris_schedule: fixed` needs `iris_alpha`: one order, or one for each iteration.")
        if schedule == "published" and values is not None:
            raise RecipeError(
                "`iris_alpha` has no meaning with `iris_schedule: published`, which has the paper's orders. Leave it out, "
                "or choose `fixed`."
            )
        if schedule in ("gap", "geometric") and values is not None and (len(values) != 2 or values[0] > values[1]):
            raise RecipeError(
                f"`iris_alpha` is {list(values)}; with `iris_schedule: {schedule}` it is the least and the largest order."
            )

    def at(self, settings: IrisSettings, iteration: int, num_iterations: int, gap: float | None) -> dict[str, Any]:
        alpha = order(str(settings.iris_schedule), settings.iris_alpha, iteration, num_iterations, gap)
        return {"iris_schedule": "fixed", "iris_alpha": [alpha]}

    def asks_for_gap(self, settings: IrisSettings) -> str:
        return "iris_schedule: gap" if settings.iris_schedule == "gap" else ""

    def depends_on_length(self, settings: IrisSettings) -> bool:
        return settings.iris_schedule == "geometric"  # its last iteration has the least order

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
    "The means run over the pairs of a gradient step.",
    function=iris,
    published=IrisSettings(iris_schedule="gap", iris_alpha=None),
    couples_pairs=True,
    figures=iris_figures,
)
