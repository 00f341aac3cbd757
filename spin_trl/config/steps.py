"""The number of gradient steps of an iteration, computed as Trainer does, before there is a Trainer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import TrainingArguments

    from .iteration import SPINConfig


def batches_an_epoch(args: TrainingArguments, rows: int, processes: int) -> int:
    """Return the number of micro-batches of each process per epoch.

    Args:
        args: settings of the training.
        rows: number of rows to train on.
        processes: number of processes that train together.
    """
    shares = rows / (args.per_device_train_batch_size * processes)
    return math.floor(shares) if args.dataloader_drop_last else math.ceil(shares)


def steps_an_epoch(args: SPINConfig, pairs: int, processes: int) -> int:
    """Return the number of gradient steps per epoch.

    Args:
        args: settings of the iteration.
        pairs: number of pairs to train on.
        processes: number of processes that train together.
    """
    return max(math.ceil(batches_an_epoch(args, pairs, processes) / args.gradient_accumulation_steps), 1)


def nearest_step(args: TrainingArguments, rows: int, processes: int, epochs: float) -> int:
    """Return the number of gradient steps, at least 1, after which training is nearest to a number of epochs.

    Args:
        args: settings of the training.
        rows: number of rows to train on.
        processes: number of processes that train together.
        epochs: number of epochs, which need not be a whole number of steps.
    """
    batches, size = max(batches_an_epoch(args, rows, processes), 1), args.gradient_accumulation_steps
    whole = math.floor(epochs)
    rest = (epochs - whole) * batches
    below = int(rest // size)
    # The last step of an epoch may have fewer micro-batches than the others.
    nearest = min((below, below + 1), key=lambda step: abs(min(step * size, batches) - rest))
    return max(whole * math.ceil(batches / size) + nearest, 1)


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
