"""T-SPIN: three responses (real, generated and proto), without an opponent."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .base import check_positive, in_single
from .fields import setting
from .objective import Objective


def tspin(
    policy_real_logps: torch.Tensor,
    policy_generated_logps: torch.Tensor,
    policy_proto_logps: torch.Tensor | None,
    *,
    alpha: float,
    beta: float,
) -> torch.Tensor:
    """T-SPIN (arXiv 2601.08198, eq. 7): triplets of real, generated and proto responses, without an opponent.

        L = softplus(-alpha * (log pi(y|x) - log pi(y'|x))) + beta * softplus(-alpha * (log pi(y'|x) - log pi(y0|x)))

    The first term is the current advantage; the second, the historical advantage, keeps the generated response above that
    of θ_0. The gradient flows into all three.

    Args:
        policy_real_logps, policy_generated_logps: log-probabilities under the policy, shape `(batch,)`, in nats.
        policy_proto_logps: log-probability of θ_0's response y0 under the policy, shape `(batch,)`; None if `beta` is 0,
            as at iteration 0, whose generated responses are θ_0's own.
        alpha: scale of the log-likelihoods, > 0.
        beta: weight of the historical advantage, >= 0.

    Returns:
        Loss of each triplet, shape `(batch,)`.

    Raises:
        ValueError: if `alpha` is not positive, `beta` is negative, or `beta` is not 0 and there are no proto responses.
    """
    check_positive("alpha", alpha)
    real, generated = in_single(policy_real_logps, policy_generated_logps)
    loss = F.softplus(-alpha * (real - generated))
    if beta == 0:
        return loss
    if beta < 0 or policy_proto_logps is None:
        raise ValueError(f"`beta` is {beta}: it must be at least 0, and 0 without proto responses.")
    (proto,) = in_single(policy_proto_logps)
    return loss + beta * F.softplus(-alpha * (generated - proto))


@dataclass
class TspinSettings:
    """T-SPIN's settings in `SPINConfig`."""

    tspin_alpha: float | None = setting(None, "T-SPIN: scale of the log-likelihoods. Default: 1.0, as published.")
    tspin_beta: float | None = setting(
        None,
        "T-SPIN: weight of the historical advantage from iteration 1 on; it is 0 at iteration 0. Default: 0.1, as "
        "published.",
    )


TSPIN_LOSS = Objective(
    "tspin",
    "T-SPIN",
    r"\ell = \log\left(1 + e^{-\alpha (L - L')}\right) + \beta \log\left(1 + e^{-\alpha (L' - L_0)}\right),"
    r"\quad L = \log \pi",
    "2601.08198",
    "$L_0$ is the log-probability of the start's own answer; the second term is left out at iteration 0.",
    function=tspin,
    published=TspinSettings(tspin_alpha=1.0, tspin_beta=0.1),
    least={"tspin_beta": 0.0},
    without_proto={"tspin_beta": 0.0},
)
