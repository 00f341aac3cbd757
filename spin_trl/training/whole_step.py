"""All pairs of one optimiser step, before any of them has a gradient.

An objective may weigh every pair by its share in the whole step. Micro-batches come one after the other, so a pass without
gradients goes ahead: weights don't move within a step, so what it finds is exact. Processes share their log-ratios. Where
one micro-batch is the whole step, nothing is done.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from accelerate import Accelerator

from ..objectives.terms import Others

Logratios = tuple[torch.Tensor, torch.Tensor]
"""Of real and generated responses, shape `(batch,)` each."""


def others_of_each(batches: Sequence[Logratios], accelerator: Accelerator) -> list[Others]:
    """For every micro-batch of this process, the other pairs of the optimiser step.

    Args:
        batches: log-ratios of the micro-batches of the step, without gradients.
        accelerator: gathers those of the other processes; every process must have as many.
    """
    ours = torch.stack([torch.cat(of_kind) for of_kind in zip(*batches, strict=True)])
    everyone = accelerator.gather(ours[None])  # shape (processes, 2, pairs of a process)
    ends = torch.tensor([len(real) for real, _ in batches]).cumsum(0).tolist()
    found = []
    for start, end in zip([0, *ends], ends, strict=False):
        rest = torch.ones(len(everyone), everyone.size(2), dtype=torch.bool, device=everyone.device)
        rest[accelerator.process_index, start:end] = False
        num_batches = len(batches) * accelerator.num_processes
        found.append(Others(everyone[:, 0][rest], everyone[:, 1][rest], num_batches))
    return found
