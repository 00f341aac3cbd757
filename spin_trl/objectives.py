"""Self-play losses as pure functions of summed log-probabilities, and nothing else.

Every function takes, for each pair, the log-probability of the real and of the generated response under the policy and
under the opponent (sums over the response's tokens), all of shape `(batch,)`, and returns one loss a pair, `(batch,)`.
At the start of an iteration the policy is the opponent, so every log-ratio is 0 and every loss has a known value.

`sigmoid`, SPIN's own loss (arXiv 2401.01335, eq. 4.7), is DPO's and comes from TRL.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F


def space(
    policy_real_logps: torch.Tensor,
    policy_generated_logps: torch.Tensor,
    opponent_real_logps: torch.Tensor,
    opponent_generated_logps: torch.Tensor,
    mu: float = 1.0,
) -> torch.Tensor:
    """SPACE (arXiv 2512.07175): noise-contrastive estimation of the real responses against the generated ones.

    With the log-ratios r = log pi(y|x) - log pi_t(y|x) of the real response and r' of the generated one:

        L = softplus(log mu - r) + mu * softplus(r' - log mu)

    which is -log sigma_mu(r) - mu * log sigma_{1/mu}(-r') with sigma_mu(z) = 1 / (1 + mu * exp(-z)). The two terms are
    independent, so the real response's likelihood can't be traded for a wider gap. There is no temperature.

    Args:
        policy_real_logps: log-probability of the real response under the policy, shape `(batch,)`, in nats.
        policy_generated_logps: the same of the generated response.
        opponent_real_logps: log-probability of the real response under the opponent, shape `(batch,)`, in nats.
        opponent_generated_logps: the same of the generated response.
        mu: generated responses per real one (the noise ratio), > 0.

    Returns:
        Loss of each pair, shape `(batch,)`. Where all log-ratios are 0: log(1 + mu) + mu * log(1 + 1 / mu), which is
        2 ln 2 for mu = 1.

    Raises:
        ValueError: if `mu` is not positive.
    """
    if mu <= 0:
        raise ValueError(f"`mu` is the number of generated responses per real one and must be positive, got {mu}.")
    real_logratios = policy_real_logps - opponent_real_logps
    generated_logratios = policy_generated_logps - opponent_generated_logps
    log_mu = math.log(mu)
    return F.softplus(log_mu - real_logratios) + mu * F.softplus(generated_logratios - log_mu)


OBJECTIVES: Mapping[str, Callable[..., torch.Tensor]] = MappingProxyType({"space": space})
"""Objectives that TRL does not have, by the name that `loss_type` gives them."""
