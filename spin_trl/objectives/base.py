"""Shared by all objectives: log-ratios, and arithmetic that stays finite.

An objective is a pure function of summed log-probabilities. For each pair it takes the log-ratios
r = log pi(y|x) - log pi_t(y|x) of the real response and r' of the generated one; without an opponent, it takes the
log-probabilities under the policy and any other inputs (lengths, a third response). All are of shape `(batch,)`, in nats,
summed over a response's tokens. Every iteration starts at r = r' = 0, so every loss of log-ratios has a known value there.

Objectives are described by the classes in `objective.py`. Half-precision inputs are computed in float32, in which
everything stays finite for log-ratios up to 1e4.
"""

from __future__ import annotations

import math

import torch

LARGEST_EXPONENT = 10.0
"""Above this, the exponentials of GSIL's unbounded losses continue as straight lines, with slopes that fit float16."""


def logratios(*logps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return r and r', the log-ratios of the real and the generated responses, shape `(batch,)` each, in at least float32.

    Args:
        logps: log-probabilities of the real and the generated responses under the policy, then under the opponent.
    """
    policy_real, policy_generated, opponent_real, opponent_generated = in_single(*logps)
    return policy_real - opponent_real, policy_generated - opponent_generated


def in_single(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the values in at least float32: sums, squares and exponentials of half-precision log-ratios would overflow."""
    return tuple(value.to(torch.promote_types(value.dtype, torch.float32)) for value in values)


def log_mean_exp(values: torch.Tensor) -> torch.Tensor:
    """Return log mean exp of values of shape `(batch,)`, as shape `()`."""
    return values.logsumexp(0) - math.log(values.numel())


def bounded_exp(exponent: torch.Tensor) -> torch.Tensor:
    """Return exp, continued as its tangent above `LARGEST_EXPONENT`: it stays finite and monotonic."""
    tangent = math.exp(LARGEST_EXPONENT) * (1 + exponent - LARGEST_EXPONENT)
    return torch.where(exponent > LARGEST_EXPONENT, tangent, exponent.clamp(max=LARGEST_EXPONENT).exp())


def check_positive(name: str, value: float) -> None:
    """Raise ValueError unless a setting is positive."""
    if not value > 0:
        raise ValueError(f"`{name}` must be positive, got {value}.")
