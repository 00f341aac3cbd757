"""Log-ratios, losses and their gradients, and two functions computed to sixty digits."""

from collections.abc import Callable
from typing import Any

import mpmath
import torch

from spin_trl.objectives.base import logratios
from spin_trl.objectives.space import space

mpmath.mp.dps = 60

PAIRS = [(0.0, 0.0), (1.5, -2.0), (-7.0, 4.0), (3.0, 3.5), (-0.25, -12.0)]
"""Log-ratios of the real and of the generated response."""

ORDERS = [0.5, 0.9, 1.0, 1.5, 2.0, 3.0]


def logps(*values: float, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype)


def of_logps(function: Callable[..., torch.Tensor], *four: torch.Tensor, **settings: Any) -> torch.Tensor:
    """Return the objective as a function of the policy's and the opponent's log-probabilities of real and generated
    responses.
    """
    return function(*logratios(*four), **settings)


def space_of(real_logratio: torch.Tensor, generated_logratio: torch.Tensor, mu: float = 1.0) -> torch.Tensor:
    """Return SPACE with the opponent's log-probabilities at 0, so that the policy's are the log-ratios."""
    return of_logps(space, real_logratio, generated_logratio, *[torch.zeros_like(real_logratio)] * 2, mu=mu)


def gradients(function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> list[list[float]]:
    """Return the gradients of the summed loss, for each input."""
    leaves = [value.detach().clone().requires_grad_() for value in inputs]
    return [found.tolist() for found in torch.autograd.grad(function(*leaves).sum(), leaves)]


def logistic(z: float) -> float:
    return float(1 / (1 + mpmath.exp(-mpmath.mpf(z))))


def softplus(z: float) -> float:
    return float(mpmath.log1p(mpmath.exp(mpmath.mpf(z))))
