"""The terms that self-play objectives add to the parent's loss: the link between a trainer's batch and pure functions.

DPOTrainer computes its own losses; ours are added to its result, from the log-probabilities that the same forwards
returned. An objective that couples pairs gets all pairs of the optimiser step: those of this micro-batch with their
gradient, the others as constants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from .objective import Objective, Tensors, logratios_of
from .registry import LOSS_TYPES, OURS, REFERENCE_FREE


@dataclass(frozen=True)
class Others:
    """The other pairs of an optimiser step.

    Attributes:
        real_logratios: log-ratios of their real responses, shape `(n,)`, without gradient.
        generated_logratios: log-ratios of their generated responses, shape `(n,)`.
        num_batches: number of micro-batches in the step, on all processes, over which the trainer averages gradients.
    """

    real_logratios: torch.Tensor
    generated_logratios: torch.Tensor
    num_batches: int


class ObjectiveTerms:
    """A trainer's objectives that TRL does not have, with their weights and settings.

    Args:
        loss_types: all losses of the trainer, including TRL's.
        loss_weights: their weights.
        values: settings by name, including those of the objectives.
    """

    def __init__(self, loss_types: Sequence[str], loss_weights: Sequence[float], values: Mapping[str, Any]) -> None:
        self.weighted: list[tuple[Objective[Any], float]] = [
            (LOSS_TYPES[name], weight) for name, weight in zip(loss_types, loss_weights, strict=True) if name in OURS
        ]
        self.values = dict(values)
        self.reference_free = bool(self.weighted) and REFERENCE_FREE.issuperset(loss_types)
        """Whether no loss needs the opponent."""

    def __bool__(self) -> bool:
        return bool(self.weighted)

    @property
    def couples_pairs(self) -> bool:
        """Whether an objective is a function of all pairs of the optimiser step."""
        return any(objective.couples_pairs for objective, _ in self.weighted)

    @property
    def needs_proto(self) -> bool:
        """Whether an objective uses θ_0's responses."""
        return any(objective.weighs_proto(self.values) for objective, _ in self.weighted)

    def __call__(self, tensors: Tensors, others: Others | None) -> tuple[torch.Tensor | float, dict[str, float]]:
        """Compute the weighted sum of the objectives.

        Args:
            tensors: tensors of this micro-batch, by the names that objectives use, each of shape `(batch,)`.
            others: other pairs of the same optimiser step, or None if the micro-batch is the whole step.

        Returns:
            The term to add to the loss, and the figures to log.
        """
        total: torch.Tensor | float = 0.0
        metrics: dict[str, float] = {}
        for objective, weight in self.weighted:
            together = _with_others(tensors, others) if objective.couples_pairs and others is not None else tensors
            loss = objective(together, self.values).mean()
            if objective.couples_pairs and others is not None:
                # The trainer averages gradients over micro-batches, but this loss is one of all pairs, not a mean of theirs.
                loss = loss.detach() + others.num_batches * (loss - loss.detach())
            total = total + weight * loss
            with torch.no_grad():
                metrics |= {name: float(value) for name, value in objective.measure(together, self.values).items()}
        return total, metrics


def _with_others(tensors: Tensors, others: Others) -> dict[str, torch.Tensor | None]:
    """Return the tensors with the log-ratios of this micro-batch's pairs and of the others."""
    together = dict(tensors)
    for name, own in logratios_of(tensors).items():
        together[name] = torch.cat([own, getattr(others, name).to(own.device)])  # cat promotes to the wider dtype
    return together
