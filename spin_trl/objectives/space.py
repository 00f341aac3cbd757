"""SPACE: noise-contrastive estimation, comparing each response with a fixed point (arXiv 2512.07175)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from .base import check_positive
from .fields import setting
from .objective import NUM_GENERATIONS, Objective


def space(real_logratios: torch.Tensor, generated_logratios: torch.Tensor, *, mu: float = 1.0) -> torch.Tensor:
    """SPACE (arXiv 2512.07175): noise-contrastive estimation of the real responses against the generated ones.

        L = softplus(log mu - r) + mu * softplus(r' - log mu)

    which is -log sigma_mu(r) - mu * log sigma_{1/mu}(-r') with sigma_mu(z) = 1 / (1 + mu * exp(-z)). The two terms are
    independent, so the real response's likelihood can't be traded for a wider gap. There is no temperature.

    With K generations per prompt there are K pairs with the same real response. Their mean is the paper's loss of the prompt
    with mu = K: the real term once (each pair contributes 1/K of it), the generated terms summed.

    Args:
        real_logratios, generated_logratios: r and r', shape `(batch,)`, in nats.
        mu: generated responses per real one (the noise ratio), > 0.

    Returns:
        Loss of each pair, shape `(batch,)`. Where all log-ratios are 0: log(1 + mu) + mu * log(1 + 1 / mu), which is
        2 ln 2 for mu = 1.

    Raises:
        ValueError: if `mu` is not positive.
    """
    check_positive("mu", mu)
    return F.softplus(math.log(mu) - real_logratios) + mu * F.softplus(generated_logratios - math.log(mu))


@dataclass
class SpaceSettings:
    """SPACE's settings in `SPINConfig`."""

    space_mu: float | None = setting(
        None, "SPACE: generated responses per real one (the noise ratio). Default: `num_generations`."
    )


SPACE_LOSS = Objective(
    "space",
    "SPACE",
    r"\ell = \log\left(1 + \mu e^{-r}\right) + \mu \log\left(1 + e^{r'} / \mu\right)",
    "2512.07175",
    function=space,
    published=SpaceSettings(space_mu=NUM_GENERATIONS),
)
