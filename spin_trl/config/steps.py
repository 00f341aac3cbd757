"""How many gradient steps an iteration takes: Trainer's own arithmetic, before there is a Trainer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .iteration import SPINConfig


def steps_an_epoch(args: SPINConfig, pairs: int, processes: int) -> int:
    """Return the gradient steps of an epoch.

    Args:
        args: settings of the iteration.
        pairs: how many are trained on.
        processes: how many train together.
    """
    shares = pairs / (args.per_device_train_batch_size * processes)
    batches = math.floor(shares) if args.dataloader_drop_last else math.ceil(shares)
    return max(math.ceil(batches / args.gradient_accumulation_steps), 1)


def gradient_steps(args: SPINConfig, pairs: int, processes: int) -> int:
    """Return the gradient steps of an iteration: `max_steps`, or those of all epochs. Arguments are [`steps_an_epoch`]'s."""
    if args.max_steps > 0:
        return args.max_steps
    return math.ceil(args.num_train_epochs * steps_an_epoch(args, pairs, processes))
