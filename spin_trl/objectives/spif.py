"""SPIF: squared errors of bounded rewards."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from .base import check_positive
from .fields import setting
from .objective import Objective


def spif(
    real_logratios: torch.Tensor, generated_logratios: torch.Tensor, *, reward_scale: float, reward_bound: float
) -> torch.Tensor:
    """SPIF (arXiv 2602.01357), **reconstructed**: the paper's own formula could not be read.

    The abstract describes a chi^2-divergence objective with bounded rewards; LS-IQ (arXiv 2303.00599), on which it builds,
    regularises the implicit reward on the mixture of real and generated data. A linear objective with that regulariser,
    with R = reward_scale * r, R' = reward_scale * r' and c = 1 / reward_bound, is, up to a constant,

        L = (c / 2) * ((R - 1 / c)^2 + (R' + 1 / c)^2)

    so real responses are pulled towards the reward +1/c and generated ones towards -1/c, and no further.

    Args:
        real_logratios, generated_logratios: r and r', shape `(batch,)`, in nats.
        reward_scale: reward per nat of log-ratio, > 0.
        reward_bound: largest reward, 1 / c, > 0.

    Returns:
        Loss of each pair, shape `(batch,)`; `reward_bound` where all log-ratios are 0.

    Raises:
        ValueError: if a setting is not positive.
    """
    check_positive("reward_scale", reward_scale)
    check_positive("reward_bound", reward_bound)
    real_error = reward_scale * real_logratios - reward_bound
    generated_error = reward_scale * generated_logratios + reward_bound
    return (real_error.square() + generated_error.square()) / (2 * reward_bound)


@dataclass
class SpifSettings:
    """SPIF's settings in `SPINConfig`."""

    spif_reward_scale: float | None = setting(None, "SPIF (reconstructed): reward per nat of log-ratio. Default: 0.1.")
    spif_reward_bound: float | None = setting(None, "SPIF (reconstructed): largest reward. Default: 1.0.")


SPIF_LOSS = Objective(
    "spif",
    "SPIF",
    r"\ell = \tfrac{c}{2}\left((R - \tfrac{1}{c})^2 + (R' + \tfrac{1}{c})^2\right),\quad R = b r",
    "2602.01357",
    "Reconstructed from the paper's abstract: its own formula could not be read.",
    function=spif,
    # SPIN's scale, and a bound of 1: the paper's own values could not be read.
    published=SpifSettings(spif_reward_scale=0.1, spif_reward_bound=1.0),
)
