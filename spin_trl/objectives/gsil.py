"""GSIL: generalised self-imitation learning, five divergences (arXiv 2410.10093)."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
import torch.nn.functional as F

from .base import bounded_exp
from .fields import setting
from .objective import Objective

GSIL_LOSSES: Mapping[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = MappingProxyType(
    {
        "bernoulli": lambda real, generated: F.softplus(-real) + F.softplus(generated),
        # 1 - sigmoid(s) equals sigmoid(-s), which keeps its precision where sigmoid(s) is nearly 1.
        "brier": lambda real, generated: torch.sigmoid(-real).square() + torch.sigmoid(generated).square(),
        "hinge": lambda real, generated: F.relu(1 - real) + F.relu(1 + generated),
        "kliep": lambda real, generated: bounded_exp(generated) - real,
        "lsif": lambda real, generated: bounded_exp(2 * generated) / 2 - bounded_exp(real),
    }
)
"""GSIL's losses by name, as functions of the scores s and s'."""


def gsil(
    real_logratios: torch.Tensor, generated_logratios: torch.Tensor, *, divergence: str, scale: float, shift: float
) -> torch.Tensor:
    """GSIL (arXiv 2410.10093), generalised self-imitation, on the scores s = scale * r + shift and s' = scale * r' + shift.

        bernoulli   L = softplus(-s) + softplus(s')            with scale 1 and shift 0 it is SPACE at mu = 1
        brier       L = (sigmoid(s) - 1)^2 + sigmoid(s')^2
        hinge       L = relu(1 - s) + relu(1 + s')
        kliep       L = -s + exp(s')
        lsif        L = -exp(s) + exp(2 s') / 2

    Args:
        real_logratios, generated_logratios: r and r', shape `(batch,)`, in nats.
        divergence: name of the loss.
        scale, shift: scale and shift of both scores.

    Returns:
        Loss of each pair, shape `(batch,)`.
    """
    return GSIL_LOSSES[divergence](scale * real_logratios + shift, scale * generated_logratios + shift)


@dataclass
class GsilSettings:
    """GSIL's settings in `SPINConfig`."""

    gsil_scale: float | None = setting(
        None, "GSIL: scale of the log-ratios. Default: 0.01 for gsil_bernoulli, as published, 0.1 for the others."
    )
    gsil_shift: float | None = setting(
        None,
        "GSIL: shift added to the scaled log-ratios. Default: 2.0 for gsil_bernoulli, as published, 0 for the others.",
    )


def _objective(divergence: str, name: str, equation: str, scale: float = 0.1, shift: float = 0.0) -> Objective:
    return Objective(
        f"gsil_{divergence}",
        f"GSIL ({name})",
        rf"s = A r + B,\; s' = A r' + B:\quad \ell = {equation}",
        "2410.10093",
        is_baseline=True,
        function=functools.partial(gsil, divergence=divergence),
        published=GsilSettings(scale, shift),
        least={"gsil_shift": -math.inf},
    )


# Scale and shift of the authors' script, which has the Bernoulli loss. None are published for the other losses, which use
# SPIN's scale and no shift (with the script's shift, hinge would ignore the real responses).
GSIL_BERNOULLI = _objective("bernoulli", "Bernoulli", r"\log(1 + e^{-s}) + \log(1 + e^{s'})", scale=0.01, shift=2.0)
GSIL_BRIER = _objective("brier", "Brier", r"(\sigma(s) - 1)^2 + \sigma(s')^2")
GSIL_HINGE = _objective("hinge", "hinge", r"\max(0, 1 - s) + \max(0, 1 + s')")
GSIL_KLIEP = _objective("kliep", "KLIEP", r"-s + e^{s'}")
GSIL_LSIF = _objective("lsif", "LSIF", r"-e^{s} + \tfrac{1}{2} e^{2 s'}")
