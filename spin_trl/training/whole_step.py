"""All pairs of one optimiser step, before any of them has a gradient.

An objective may weigh every pair by its share in the whole step. Micro-batches come one after the other, so a pass without
gradients goes ahead: weights don't move within a step, so what it finds is exact. Processes share their log-ratios. Where
one micro-batch is the whole step, nothing is done.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from accelerate import Accelerator

from ..objectives.terms import Others

Logratios = tuple[torch.Tensor, torch.Tensor]
"""Of real and generated responses, shape `(batch,)` each."""


def others_of_each(
    batches: Sequence[Mapping[str, torch.Tensor]],
    logratios: Callable[[Mapping[str, torch.Tensor]], Logratios],
    accelerator: Accelerator,
) -> list[Others]:
    """For every micro-batch of this process, the other pairs of the optimiser step.

    Args:
        batches: the micro-batches of the step.
        logratios: computes those of a micro-batch, without gradients.
        accelerator: gathers those of the other processes; every process must have as many.
    """
    found = [logratios(batch) for batch in batches]
    real, generated = torch.cat([real for real, _ in found]), torch.cat([generated for _, generated in found])
    everyone = _gathered(real, generated, accelerator)
    ends = torch.tensor([len(real) for real, _ in found]).cumsum(0).tolist()
    num_batches = len(batches) * accelerator.num_processes
    return [
        _others_than(everyone, accelerator.process_index, start, end, num_batches)
        for start, end in zip([0, *ends], ends, strict=False)
    ]


def others_of_this(real: torch.Tensor, generated: torch.Tensor, accelerator: Accelerator) -> Others | None:
    """The pairs of other processes, where each has one micro-batch a step; None where there is one process.

    Args:
        real, generated: log-ratios of this process's micro-batch, shape `(batch,)`.
        accelerator: gathers.
    """
    if accelerator.num_processes == 1:
        return None
    everyone = _gathered(real.detach(), generated.detach(), accelerator)
    return _others_than(everyone, accelerator.process_index, 0, len(real), accelerator.num_processes)


def _gathered(real: torch.Tensor, generated: torch.Tensor, accelerator: Accelerator) -> torch.Tensor:
    """Log-ratios of all processes, shape (processes, 2, pairs of a process)."""
    gathered: torch.Tensor = accelerator.gather(torch.stack([real, generated])[None])
    return gathered


def _others_than(everyone: torch.Tensor, process: int, start: int, end: int, num_batches: int) -> Others:
    """Everything but the pairs from `start` to `end` of a process."""
    rest = torch.ones(len(everyone), everyone.size(2), dtype=torch.bool, device=everyone.device)
    rest[process, start:end] = False
    return Others(everyone[:, 0][rest], everyone[:, 1][rest], num_batches)
