"""What settings of TRL and transformers must be for anything to be trained. Neither of them looks before it is too late."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .checks import Bounds, Choices, problem

if TYPE_CHECKING:
    from .iteration import SPINConfig

_AT_LEAST_0 = Bounds(0, high_open=True)
_AT_LEAST_1 = Bounds(1, high_open=True)

TRL_SETTINGS: Mapping[str, Bounds | Choices] = {
    "adam_epsilon": _AT_LEAST_0,
    "beta": Bounds(0, low_open=True, high_open=True, why="with 0 nothing is learned, and below it the opposite"),
    "dataloader_multiprocessing_context": Choices(multiprocessing.get_all_start_methods()),
    "dataloader_num_workers": _AT_LEAST_0,
    "dataset_num_proc": _AT_LEAST_1,
    "gradient_accumulation_steps": _AT_LEAST_1,
    "label_smoothing": Bounds(0, 0.5, high_open=True, why="it is the share of pairs that are the wrong way round"),
    "learning_rate": _AT_LEAST_0,
    "max_grad_norm": _AT_LEAST_0,
    "max_length": Bounds(2, high_open=True),
    "num_train_epochs": Bounds(0, low_open=True, high_open=True),
    "pad_to_multiple_of": _AT_LEAST_1,
    "per_device_eval_batch_size": _AT_LEAST_1,
    "per_device_train_batch_size": _AT_LEAST_1,
    "precompute_ref_batch_size": _AT_LEAST_1,
    "truncation_mode": Choices(("keep_start", "keep_end")),
    "weight_decay": _AT_LEAST_0,
}
"""By name. The settings that this package declares have theirs in their fields."""


def out_of_bounds(args: SPINConfig) -> list[str]:
    """Settings that are none of what they must be, each as a sentence.

    Where steps are counted, epochs mean nothing, and `beta` means something to some losses only.
    """
    meaningless = {"beta": not args.uses_beta, "num_train_epochs": args.max_steps >= 0}
    reasons = []
    for name, allowed in TRL_SETTINGS.items():
        value = getattr(args, name, None)
        # Objects that stand for a choice, and what is left out, are not looked at.
        if isinstance(value, str if isinstance(allowed, Choices) else int | float) and not meaningless.get(name):
            reasons.append(problem(name, value, allowed))
    return [reason for reason in reasons if reason is not None]
