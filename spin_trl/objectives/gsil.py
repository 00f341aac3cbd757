"""GSIL: generalised self-imitation, five divergences (arXiv 2410.10093)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F

from .base import bounded_exp, logratios

GSIL_LOSSES: Mapping[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = MappingProxyType(
    {
        "bernoulli": lambda real, generated: F.softplus(-real) + F.softplus(generated),
        # 1 - sigmoid(s) is sigmoid(-s), which keeps its digits where sigmoid(s) is nearly 1.
        "brier": lambda real, generated: torch.sigmoid(-real).square() + torch.sigmoid(generated).square(),
        "hinge": lambda real, generated: F.relu(1 - real) + F.relu(1 + generated),
        "kliep": lambda real, generated: bounded_exp(generated) - real,
        "lsif": lambda real, generated: bounded_exp(2 * generated) / 2 - bounded_exp(real),
    }
)
"""GSIL's losses by name, as functions of the scores s and s'."""


def gsil(
    policy_real_logps: torch.Tensor,
    policy_generated_logps: torch.Tensor,
    opponent_real_logps: torch.Tensor,
    opponent_generated_logps: torch.Tensor,
    *,
    divergence: str,
    scale: float,
    shift: float,
) -> torch.Tensor:
    """GSIL (arXiv 2410.10093), generalised self-imitation, of the scores s = scale * r + shift and s' = scale * r' + shift.

        bernoulli   L = softplus(-s) + softplus(s')            with scale 1 and shift 0 it is SPACE at mu = 1
        brier       L = (sigmoid(s) - 1)^2 + sigmoid(s')^2
        hinge       L = relu(1 - s) + relu(1 + s')
        kliep       L = -s + exp(s')
        lsif        L = -exp(s) + exp(2 s') / 2

    Args:
        policy_real_logps, policy_generated_logps: under the policy, shape `(batch,)`, in nats.
        opponent_real_logps, opponent_generated_logps: under the opponent, shape `(batch,)`, in nats.
        divergence: which of them.
        scale, shift: of both scores.

    Returns:
        Loss of each pair, shape `(batch,)`.
    """
    real, generated = logratios(
        policy_real_logps, policy_generated_logps, opponent_real_logps, opponent_generated_logps
    )
    return GSIL_LOSSES[divergence](scale * real + shift, scale * generated + shift)
