"""IRIS: a Rényi divergence of all pairs of an optimiser step (arXiv 2604.20933). Its orders: `iris_order.py`."""

from __future__ import annotations

import torch

from .base import check_positive, in_single, log_mean_exp, logratios

NEAR_ONE = 1e-3
"""Orders of IRIS this close to 1 use the limit: the formula itself divides by alpha - 1."""


def iris(
    policy_real_logps: torch.Tensor,
    policy_generated_logps: torch.Tensor,
    opponent_real_logps: torch.Tensor,
    opponent_generated_logps: torch.Tensor,
    *,
    alpha: float,
) -> torch.Tensor:
    """IRIS (arXiv 2604.20933, eq. 5): a variational Rényi divergence of order alpha, over the whole batch.

        L = -1/(alpha - 1) * log mean exp((alpha - 1) * r) + 1/alpha * log mean exp(alpha * r')

    The gradient weights real responses by softmax((alpha - 1) * r) and generated ones by softmax(alpha * r') (eq. 7 and 8).
    It couples the pairs: the batch that is passed should be all that one optimiser step sees. Of one pair it is r' - r,
    whatever alpha is.

    Args:
        policy_real_logps, policy_generated_logps: under the policy, shape `(batch,)`, in nats.
        opponent_real_logps, opponent_generated_logps: under the opponent, shape `(batch,)`, in nats.
        alpha: the order, > 0. Within 1e-3 of 1 the limit is used: the mean of r.

    Returns:
        One loss for the batch, shape `()`; 0 where all log-ratios are 0.

    Raises:
        ValueError: `alpha` is not positive.
    """
    check_positive("alpha", alpha)
    real, generated = logratios(
        policy_real_logps, policy_generated_logps, opponent_real_logps, opponent_generated_logps
    )
    tilt = alpha - 1
    reward = real.mean() if abs(tilt) < NEAR_ONE else log_mean_exp(tilt * real) / tilt
    return log_mean_exp(alpha * generated) / alpha - reward


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
    policy_real_logps: torch.Tensor,
    policy_generated_logps: torch.Tensor,
    opponent_real_logps: torch.Tensor,
    opponent_generated_logps: torch.Tensor,
    *,
    alpha: float,
) -> dict[str, torch.Tensor]:
    """What to watch of IRIS: its order, and how many pairs its weights leave in play. Arguments: [`iris`].

    Returns:
        `iris/alpha`, and the effective sample sizes `iris/ess_real` and `iris/ess_generated`, of shape `()`.
    """
    real, generated = logratios(
        policy_real_logps, policy_generated_logps, opponent_real_logps, opponent_generated_logps
    )
    return {
        "iris/alpha": real.new_tensor(alpha),
        "iris/ess_real": effective_sample_size((alpha - 1) * real),
        "iris/ess_generated": effective_sample_size(alpha * generated),
    }
