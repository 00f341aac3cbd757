"""The number of gradient steps of an iteration, computed as Trainer does, before there is a Trainer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .iteration import SPINConfig


def steps_an_epoch(args: SPINConfig, pairs: int, processes: int) -> int:
    """Return the number of gradient steps per epoch.

    Args:
        args: settings of the iteration.
        pairs: number of pairs to train on.
        processes: number of processes that train together.
    """
    shares = pairs / (args.per_device_train_batch_size * processes)
    batches = math.floor(shares) if args.dataloader_drop_last else math.ceil(shares)
    return max(math.ceil(batches / args.gradient_accumulation_steps), 1)


def gradient_steps(args: SPINConfig, pairs: int, processes: int, epochs: float | None = None) -> int:
    """Return the number of gradient steps of an iteration.

    Args:
        args: settings of the iteration.
        pairs: number of pairs to train on.
        processes: number of processes that train together.
        epochs: number of epochs; None: that of the settings.
    """
    if args.max_steps > 0:
        return args.max_steps
    epochs = args.num_train_epochs if epochs is None else epochs
    return math.ceil(epochs * steps_an_epoch(args, pairs, processes))
