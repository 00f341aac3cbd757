"""SPIN: the logistic loss of the gap between the log-ratios (arXiv 2401.01335)."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .base import logratios


def sigmoid(
    policy_real_logps: torch.Tensor,
    policy_generated_logps: torch.Tensor,
    opponent_real_logps: torch.Tensor,
    opponent_generated_logps: torch.Tensor,
    *,
    beta: float,
) -> torch.Tensor:
    """SPIN (arXiv 2401.01335, eq. 4.7 with the logistic loss). In training TRL computes it: it is DPO's loss.

        L = softplus(-beta * (r - r'))

    Only the gap counts: both likelihoods may fall together.

    Args:
        policy_real_logps, policy_generated_logps: under the policy, shape `(batch,)`, in nats.
        opponent_real_logps, opponent_generated_logps: under the opponent, shape `(batch,)`, in nats.
        beta: SPIN's lambda; the larger, the smaller the step (theorem 5.4).

    Returns:
        Loss of each pair, shape `(batch,)`; ln 2 where the log-ratios are equal.
    """
    real, generated = logratios(
        policy_real_logps, policy_generated_logps, opponent_real_logps, opponent_generated_logps
    )
    return F.softplus(-beta * (real - generated))
