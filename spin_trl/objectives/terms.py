"""What self-play objectives add to the parent's loss: the arithmetic between a trainer's batch and pure functions.

DPOTrainer computes its own losses; ours are added to its result, from the log-probabilities that the same forwards
returned. An objective that couples pairs is given all pairs of the optimiser step: those of this micro-batch with
their gradient, the others as numbers.
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
        generated_logratios: of their generated responses, shape `(n,)`.
        num_batches: micro-batches of the step, on all processes, over which the trainer averages gradients.
    """

    real_logratios: torch.Tensor
    generated_logratios: torch.Tensor
    num_batches: int


class ObjectiveTerms:
    """The objectives of a trainer that TRL does not have, with their weights and settings.

    Args:
        loss_types: all losses of the trainer, TRL's among them.
        loss_weights: as many.
        values: settings by name, those of the objectives among them.
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
        """Whether an objective takes θ_0's responses."""
        return any(objective.weighs_proto(self.values) for objective, _ in self.weighted)

    def __call__(self, tensors: Tensors, others: Others | None) -> tuple[torch.Tensor | float, dict[str, float]]:
        """The weighted sum of the objectives.

        Args:
            tensors: of this micro-batch, by the names that objectives use, each of shape `(batch,)`.
            others: of the same optimiser step, or None if the micro-batch is all of it.

        Returns:
            What to add to the loss, and figures to log.
        """
        total: torch.Tensor | float = 0.0
        metrics: dict[str, float] = {}
        for objective, weight in self.weighted:
            together = _with_others(tensors, others) if objective.couples_pairs and others is not None else tensors
            loss = objective(together, self.values).mean()
            if objective.couples_pairs and others is not None:
                # The trainer averages the gradients of all micro-batches; the loss is that of all pairs, not a mean.
                loss = loss.detach() + others.num_batches * (loss - loss.detach())
            total = total + weight * loss
            with torch.no_grad():
                metrics |= {name: float(value) for name, value in objective.measure(together, self.values).items()}
        return total, metrics


def _with_others(tensors: Tensors, others: Others) -> dict[str, torch.Tensor | None]:
    """The log-ratios of this micro-batch's pairs and of the others."""
    together = dict(tensors)
    for name, own in logratios_of(tensors).items():
        together[name] = torch.cat([own, getattr(others, name).to(own.device)])  # in the wider dtype
    return together
