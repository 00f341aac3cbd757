"""S-SimPO: SimPO on self-play pairs, without an opponent (arXiv 2405.14734, 2512.07175)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .base import check_positive, in_single
from .fields import setting
from .objective import Objective


def simpo(
    policy_real_logps: torch.Tensor,
    policy_generated_logps: torch.Tensor,
    real_lengths: torch.Tensor,
    generated_lengths: torch.Tensor,
    *,
    beta: float,
    gamma: float,
) -> torch.Tensor:
    """S-SimPO, a baseline of SPACE's paper (arXiv 2512.07175): SimPO (arXiv 2405.14734, eq. 6) on self-play pairs.

        L = softplus(-(beta * log pi(y|x) / |y| - beta * log pi(y'|x) / |y'| - gamma))

    Args:
        policy_real_logps, policy_generated_logps: log-probabilities under the policy, shape `(batch,)`, in nats.
        real_lengths, generated_lengths: tokens of the responses, shape `(batch,)`. An empty response counts as one token.
        beta: scale of the mean log-likelihoods, > 0.
        gamma: margin by which the real response must win.

    Returns:
        Loss of each pair, shape `(batch,)`.

    Raises:
        ValueError: if `beta` is not positive.
    """
    check_positive("beta", beta)
    real, generated = in_single(policy_real_logps, policy_generated_logps)
    gap = real / real_lengths.clamp(min=1) - generated / generated_lengths.clamp(min=1)
    return F.softplus(gamma - beta * gap)


@dataclass
class SimpoSettings:
    """S-SimPO's settings in `SPINConfig`."""

    simpo_beta: float | None = setting(None, "S-SimPO: scale of the mean log-likelihoods. Default: 2.0, as published.")
    simpo_gamma: float | None = setting(
        None, "S-SimPO: margin by which the real response must win. Default: 0.5, as published."
    )


SIMPO_LOSS = Objective(
    "simpo",
    "S-SimPO",
    r"\ell = \log\left(1 + e^{\gamma - \beta (L / |y| - L' / |y'|)}\right),\quad L = \log \pi",
    "2405.14734",
    is_baseline=True,
    function=simpo,
    published=SimpoSettings(simpo_beta=2.0, simpo_gamma=0.5),
    least={"simpo_gamma": -math.inf},
)
