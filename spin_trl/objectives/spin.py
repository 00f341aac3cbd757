"""SPIN: the logistic loss of the gap between the log-ratios (arXiv 2401.01335), and other losses that TRL computes."""

from __future__ import annotations

from types import SimpleNamespace

import torch
import torch.nn.functional as F

from .objective import Method, Objective


def sigmoid(real_logratios: torch.Tensor, generated_logratios: torch.Tensor, *, beta: float) -> torch.Tensor:
    """SPIN (arXiv 2401.01335, eq. 4.7 with the logistic loss). In training TRL computes it, as DPO's loss.

        L = softplus(-beta * (r - r'))

    Only the gap counts: both likelihoods may fall together.

    Args:
        real_logratios, generated_logratios: r and r', shape `(batch,)`, in nats.
        beta: SPIN's lambda; the larger, the smaller the step (theorem 5.4).

    Returns:
        Loss of each pair, shape `(batch,)`; ln 2 where the log-ratios are equal.
    """
    return F.softplus(-beta * (real_logratios - generated_logratios))


SPIN_LOSS = Objective(
    "sigmoid",
    "SPIN",
    r"\ell = \log\left(1 + e^{-\beta (r - r')}\right)",
    "2401.01335",
    guesses=("spin",),
    function=sigmoid,
    published=SimpleNamespace(beta=0.1),  # TRL's setting
    by_trl=True,
)
SPIN_HINGE_LOSS = Method("hinge", "SPIN with the hinge loss", r"\ell = \max(0,\, 1 - \beta (r - r'))", "2401.01335")
IPO_LOSS = Method(
    "ipo",
    "S-IPO",
    r"\ell = \left(\tfrac{r}{|y|} - \tfrac{r'}{|y'|} - \tfrac{1}{2 \beta}\right)^2",
    "2310.12036",
    is_baseline=True,
)
SFT_LOSS = Method(
    "sft", "negative log-likelihood of the real response", r"\ell = -\log \pi(y \mid x) / |y|", is_baseline=True
)
