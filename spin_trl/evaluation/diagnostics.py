"""Figures for what the papers argue about: does the real response fall, what drives the gradient, how far is a step.

All figures compare a model θ_{t+1} with its opponent θ_t, on real responses and on the opponent's own. r and r' are the
log-ratios of the two (see [`objectives.base`]).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..objectives.objective import LENGTHS, OPPONENT, POLICY, PROTO
from ..objectives.registry import LOSS_TYPES
from .summary import HeldOutRow, mean_of

BINS = 40
"""Number of bins in the histograms of log-ratios."""


def game_figures(
    rows: Sequence[HeldOutRow], losses: Mapping[str, float], values: Mapping[str, Any]
) -> dict[str, float]:
    """Return figures of an iteration as a game between a model and its opponent.

    Args:
        rows: rows measured against the opponent; if the model has none, the result is empty.
        losses: names and weights of the losses used in training.
        values: settings of the losses.

    Returns:
        `logratio/real`, `logratio/generated`: means of r and r', in nats; `gap`: mean of r - r'; each with its standard
        error; `kl`: KL(θ_t || θ_{t+1}) per response, estimated on the opponent's samples: the distance between the iterates;
        `real_below_generated`: share of prompts whose real response is less likely than the opponent's;
        `reward_without_likelihood`: share where that is so although r > r' (T-SPIN's criticism of SPIN);
        `coefficient/real_start`, `coefficient/generated_start`, `coefficient/real_end`, `coefficient/generated_end`: mean
        derivative of a pair's loss with respect to r and r', before (all log-ratios 0) and after the iteration;
        `pairs_in_play/real`, `pairs_in_play/generated`: effective share of pairs that make up the gradient at the end.
        The last two kinds are omitted if a loss is TRL's own (other than `sigmoid`, and `sft`, which has none).
    """
    if any(row.real_logratio is None for row in rows) or not rows:
        return {}
    real = torch.tensor([row.real_logratio for row in rows], dtype=torch.float64)
    generated = torch.tensor([row.generated_logratio for row in rows], dtype=torch.float64)
    below = [row.real_logp < (row.opponent_generated_logp or 0.0) for row in rows]
    figures = mean_of("logratio/real", real.tolist()) | mean_of("logratio/generated", generated.tolist())
    figures |= mean_of("gap", (real - generated).tolist()) | mean_of("kl", (-generated).tolist())
    rewarded = (real > generated).tolist()
    figures["real_below_generated"] = sum(below) / len(rows)
    figures["reward_without_likelihood"] = sum(a and b for a, b in zip(below, rewarded, strict=True)) / len(rows)
    if all(name in LOSS_TYPES or name == "sft" for name in losses):
        figures |= _coefficients(rows, real, generated, losses, values)
    return figures


def histograms(rows: Sequence[HeldOutRow]) -> dict[str, list[float]]:
    """Return histograms of the log-ratios, over common bins.

    Returns:
        `edges`, in nats; `real` and `generated`: counts, one fewer than the edges. Empty without an opponent.
    """
    both = {
        "real": [row.real_logratio for row in rows if row.real_logratio is not None],
        "generated": [row.generated_logratio for row in rows if row.generated_logratio is not None],
    }
    everything = torch.tensor([*both["real"], *both["generated"]], dtype=torch.float64)
    if not len(everything):
        return {}
    low, high = float(everything.min()), float(everything.max())
    if low == high:
        low, high = low - 0.5, high + 0.5
    return {"edges": torch.linspace(low, high, BINS + 1, dtype=torch.float64).tolist()} | {
        name: torch.histc(torch.tensor(values, dtype=torch.float64), BINS, low, high).tolist()
        for name, values in both.items()
    }


def _coefficients(
    rows: Sequence[HeldOutRow],
    real: torch.Tensor,
    generated: torch.Tensor,
    losses: Mapping[str, float],
    values: Mapping[str, Any],
) -> dict[str, float]:
    policy = torch.tensor([[row.real_logp, row.opponent_generated_logp or 0.0] for row in rows], dtype=torch.float64)
    opponent = policy - torch.stack([real, generated], dim=1)
    lengths = torch.tensor([[row.real_tokens, row.opponent_generated_tokens or 0] for row in rows])
    figures: dict[str, float] = {}
    for moment, at in (("start", opponent), ("end", policy)):
        logps = at.clone().requires_grad_(True)
        # Without proto responses, only T-SPIN's first term: the advantage over the opponent.
        tensors: dict[str, torch.Tensor | None] = {PROTO[0]: None}
        for names, both in ((POLICY, logps), (OPPONENT, opponent), (LENGTHS, lengths)):
            tensors |= dict(zip(names, both.unbind(1), strict=True))
        known = [(LOSS_TYPES[name], weight) for name, weight in losses.items() if name in LOSS_TYPES]
        if not known:
            return {}
        # A sum over the pairs; for a loss of the whole batch, its value times the number of pairs.
        total = sum(weight * loss_type(tensors, values).mean() * len(rows) for loss_type, weight in known)
        (gradient,) = torch.autograd.grad(torch.as_tensor(total), logps)
        for index, name in enumerate(("real", "generated")):
            figures[f"coefficient/{name}_{moment}"] = float(gradient[:, index].mean())
            if moment == "end":
                figures[f"pairs_in_play/{name}"] = _effective_share(gradient[:, index].abs())
    return figures


def _effective_share(weights: torch.Tensor) -> float:
    """Return (sum w)^2 / (n sum w^2): 1 if all weights are equal, 1/n if one has all the weight."""
    squares = float(weights.square().sum())
    return math.nan if squares == 0 else float(weights.sum()) ** 2 / squares / len(weights)
