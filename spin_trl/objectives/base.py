"""What the objectives share: log-ratios, and arithmetic that stays finite.

An objective is a pure function of summed log-probabilities. It takes, for each pair, the log-ratios
r = log pi(y|x) - log pi_t(y|x) of the real response and r' of the generated one; or, without an opponent, the
log-probabilities under the policy, and what else it needs (lengths, a third response). All are of shape `(batch,)`, in nats,
summed over a response's tokens. Every iteration starts at r = r' = 0, so every loss of log-ratios has a known value there.

What describes an objective is in `objective.py`. Half-precision inputs are computed in float32, in which everything stays
finite for log-ratios up to 1e4.
"""

from __future__ import annotations

import math

import torch

LARGEST_EXPONENT = 10.0
"""Above it, the exponentials of GSIL's unbounded losses go on as straight lines, with slopes that fit float16."""


def logratios(*logps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """r and r', the log-ratios of the real and of the generated responses, shape `(batch,)` each, in float32 at least.

    Args:
        logps: of the real and of the generated responses under the policy, then the same under the opponent.
    """
    policy_real, policy_generated, opponent_real, opponent_generated = in_single(*logps)
    return policy_real - opponent_real, policy_generated - opponent_generated


def in_single(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """In float32 at least: the sums, squares and exponentials of half-precision log-ratios would overflow."""
    return tuple(value.to(torch.promote_types(value.dtype, torch.float32)) for value in values)


def log_mean_exp(values: torch.Tensor) -> torch.Tensor:
    """log mean exp of values of shape `(batch,)`, shape `()`."""
    return values.logsumexp(0) - math.log(values.numel())


def bounded_exp(exponent: torch.Tensor) -> torch.Tensor:
    """exp, continued as its tangent above `LARGEST_EXPONENT`, so that it stays finite and keeps its direction."""
    tangent = math.exp(LARGEST_EXPONENT) * (1 + exponent - LARGEST_EXPONENT)
    return torch.where(exponent > LARGEST_EXPONENT, tangent, exponent.clamp(max=LARGEST_EXPONENT).exp())


def check_positive(name: str, value: float) -> None:
    """Raise ValueError unless a setting is above 0."""
    if not value > 0:
        raise ValueError(f"`{name}` must be positive, got {value}.")
