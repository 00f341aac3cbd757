"""Self-play losses as pure functions of summed log-probabilities, and nothing else.

Every function takes, for each pair, the log-probability of the real and of the generated response under the policy, and
what else it needs (the same under the opponent, lengths, a third response), all of shape `(batch,)`, in nats, summed over
a response's tokens. With the log-ratios r = log pi(y|x) - log pi_t(y|x) of the real response and r' of the generated one,
every iteration starts at r = r' = 0, so every loss has a known value there.

Which setting goes to which argument, and the published defaults: `loss_types.py`. Half-precision inputs are computed in
float32, in which everything stays finite for log-ratios up to 1e4.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
import torch.nn.functional as F

NEAR_ONE = 1e-3
"""Orders of IRIS this close to 1 use the limit: the formula itself divides by alpha - 1."""

LARGEST_EXPONENT = 10.0
"""Above it, the exponentials of GSIL's unbounded losses go on as straight lines, with slopes that fit float16."""


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


def space(
    policy_real_logps: torch.Tensor,
    policy_generated_logps: torch.Tensor,
    opponent_real_logps: torch.Tensor,
    opponent_generated_logps: torch.Tensor,
    *,
    mu: float = 1.0,
) -> torch.Tensor:
    """SPACE (arXiv 2512.07175): noise-contrastive estimation of the real responses against the generated ones.

        L = softplus(log mu - r) + mu * softplus(r' - log mu)

    which is -log sigma_mu(r) - mu * log sigma_{1/mu}(-r') with sigma_mu(z) = 1 / (1 + mu * exp(-z)). The two terms are
    independent, so the real response's likelihood can't be traded for a wider gap. There is no temperature.

    With K generations a prompt there are K pairs of the same real response. Their mean is the paper's loss of the prompt
    with mu = K: the real term once (each pair brings 1/K of it), the generated terms summed.

    Args:
        policy_real_logps, policy_generated_logps: under the policy, shape `(batch,)`, in nats.
        opponent_real_logps, opponent_generated_logps: under the opponent, shape `(batch,)`, in nats.
        mu: generated responses per real one (the noise ratio), > 0.

    Returns:
        Loss of each pair, shape `(batch,)`. Where all log-ratios are 0: log(1 + mu) + mu * log(1 + 1 / mu), which is
        2 ln 2 for mu = 1.

    Raises:
        ValueError: if `mu` is not positive.
    """
    _positive("mu", mu)
    real, generated = logratios(
        policy_real_logps, policy_generated_logps, opponent_real_logps, opponent_generated_logps
    )
    return F.softplus(math.log(mu) - real) + mu * F.softplus(generated - math.log(mu))


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

    The first term is the current advantage, the second, the historical one, keeps the generated response above that of
    θ_0. The gradient flows into all three.

    Args:
        policy_real_logps, policy_generated_logps: under the policy, shape `(batch,)`, in nats.
        policy_proto_logps: of θ_0's response y0 under the policy, shape `(batch,)`; None where `beta` is 0, as at
            iteration 0, whose generated responses are θ_0's own.
        alpha: scale of the log-likelihoods, > 0.
        beta: weight of the historical advantage, >= 0.

    Returns:
        Loss of each triplet, shape `(batch,)`.

    Raises:
        ValueError: `alpha` is not positive, `beta` is negative, or `beta` is not 0 and there are no proto responses.
    """
    _positive("alpha", alpha)
    real, generated = _wide(policy_real_logps, policy_generated_logps)
    loss = F.softplus(-alpha * (real - generated))
    if beta == 0:
        return loss
    if beta < 0 or policy_proto_logps is None:
        raise ValueError(f"`beta` is {beta}: it must be at least 0, and 0 without proto responses.")
    (proto,) = _wide(policy_proto_logps)
    return loss + beta * F.softplus(-alpha * (generated - proto))


def spif(
    policy_real_logps: torch.Tensor,
    policy_generated_logps: torch.Tensor,
    opponent_real_logps: torch.Tensor,
    opponent_generated_logps: torch.Tensor,
    *,
    reward_scale: float,
    reward_bound: float,
) -> torch.Tensor:
    """SPIF (arXiv 2602.01357), **reconstructed**: the paper's own formula could not be read.

    The abstract names a chi^2-divergence objective with bounded rewards; LS-IQ (arXiv 2303.00599), on which it builds,
    regularises the implicit reward on the mixture of real and generated data. A linear objective with that regulariser,
    with R = reward_scale * r, R' = reward_scale * r' and c = 1 / reward_bound, is, up to a constant,

        L = (c / 2) * ((R - 1 / c)^2 + (R' + 1 / c)^2)

    so real responses are drawn to the reward +1/c, generated ones to -1/c, and no further.

    Args:
        policy_real_logps, policy_generated_logps: under the policy, shape `(batch,)`, in nats.
        opponent_real_logps, opponent_generated_logps: under the opponent, shape `(batch,)`, in nats.
        reward_scale: reward per nat of log-ratio, > 0.
        reward_bound: largest reward, 1 / c, > 0.

    Returns:
        Loss of each pair, shape `(batch,)`; `reward_bound` where all log-ratios are 0.

    Raises:
        ValueError: a setting is not positive.
    """
    _positive("reward_scale", reward_scale)
    _positive("reward_bound", reward_bound)
    real, generated = logratios(
        policy_real_logps, policy_generated_logps, opponent_real_logps, opponent_generated_logps
    )
    real_error, generated_error = reward_scale * real - reward_bound, reward_scale * generated + reward_bound
    return (real_error.square() + generated_error.square()) / (2 * reward_bound)


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
    _positive("alpha", alpha)
    real, generated = logratios(
        policy_real_logps, policy_generated_logps, opponent_real_logps, opponent_generated_logps
    )
    tilt = alpha - 1
    reward = real.mean() if abs(tilt) < NEAR_ONE else _log_mean_exp(tilt * real) / tilt
    return _log_mean_exp(alpha * generated) / alpha - reward


def effective_sample_size(log_weights: torch.Tensor) -> torch.Tensor:
    """How many equally weighted samples these weights are worth: (sum w)^2 / sum w^2 (Kish).

    Args:
        log_weights: logarithms of the weights, up to a constant, shape `(batch,)`.

    Returns:
        Between 1 and the size of the batch, shape `()`.
    """
    (wide,) = _wide(log_weights)
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
        policy_real_logps, policy_generated_logps: under the policy, shape `(batch,)`, in nats.
        real_lengths, generated_lengths: tokens of the responses, shape `(batch,)`. An empty response counts one.
        beta: scale of the mean log-likelihoods, > 0.
        gamma: the margin that real must win by.

    Returns:
        Loss of each pair, shape `(batch,)`.

    Raises:
        ValueError: `beta` is not positive.
    """
    _positive("beta", beta)
    real, generated = _wide(policy_real_logps, policy_generated_logps)
    gap = real / real_lengths.clamp(min=1) - generated / generated_lengths.clamp(min=1)
    return F.softplus(gamma - beta * gap)


GSIL_LOSSES: Mapping[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = MappingProxyType(
    {
        "bernoulli": lambda real, generated: F.softplus(-real) + F.softplus(generated),
        # 1 - sigmoid(s) is sigmoid(-s), which keeps its digits where sigmoid(s) is nearly 1.
        "brier": lambda real, generated: torch.sigmoid(-real).square() + torch.sigmoid(generated).square(),
        "hinge": lambda real, generated: F.relu(1 - real) + F.relu(1 + generated),
        "kliep": lambda real, generated: _exp(generated) - real,
        "lsif": lambda real, generated: _exp(2 * generated) / 2 - _exp(real),
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


def logratios(
    policy_real_logps: torch.Tensor,
    policy_generated_logps: torch.Tensor,
    opponent_real_logps: torch.Tensor,
    opponent_generated_logps: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """r and r', the log-ratios of the real and of the generated responses, shape `(batch,)` each, in float32 at least."""
    wide = _wide(policy_real_logps, policy_generated_logps, opponent_real_logps, opponent_generated_logps)
    return wide[0] - wide[2], wide[1] - wide[3]


def _wide(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """In float32 at least: the sums, squares and exponentials of half-precision log-ratios would overflow."""
    return tuple(value.to(torch.promote_types(value.dtype, torch.float32)) for value in values)


def _log_mean_exp(values: torch.Tensor) -> torch.Tensor:
    return values.logsumexp(0) - math.log(values.numel())


def _exp(exponent: torch.Tensor) -> torch.Tensor:
    """exp, continued as its tangent above `LARGEST_EXPONENT`, so that it stays finite and keeps its direction."""
    tangent = math.exp(LARGEST_EXPONENT) * (1 + exponent - LARGEST_EXPONENT)
    return torch.where(exponent > LARGEST_EXPONENT, tangent, exponent.clamp(max=LARGEST_EXPONENT).exp())


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"`{name}` must be positive, got {value}.")
