"""Warnings about valid but unlikely values of settings. The run continues."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from .bounds import OF_RECIPES, TRAINABLE, USUAL
from .checks import as_mapping
from .plain import plain
from .steps import steps_an_epoch

if TYPE_CHECKING:
    from .iteration import SPINConfig
    from .loop import SelfPlayConfig


def unusual(args: SPINConfig, play: SelfPlayConfig) -> list[str]:
    """Return one sentence per unusual setting of a run, whether it comes from a recipe or from Python.

    Values with which a run is refused are left out: the error names them.
    """
    lists = as_mapping("per_iteration", play.per_iteration) or {}
    said = []
    for name, usual in USUAL.items():
        if (name == "beta" and not args.uses_beta) or (name == "learning_rate" and "sgd" in plain(args.optim)):
            continue
        refused = [bounds[name] for bounds in (TRAINABLE, OF_RECIPES) if name in bounds]
        for value in dict.fromkeys(lists.get(name) or [getattr(args, name)]):
            if any(value not in allowed for allowed in refused):
                continue
            if value not in usual and not (name == "num_train_epochs" and args.max_steps > 0):
                said.append(f"`{name}` is {value:g}, which is unusual; the usual range is {usual}.")
    if args.max_steps > 0:
        said += _long_warmup(args, args.max_steps, "(`max_steps`)")
    return said


def long_warmup(args: SPINConfig, play: SelfPlayConfig, rows: int, processes: int) -> list[str]:
    """Return a warning if the warm-up is as long as the training of an iteration. With `max_steps`, [`unusual`] does this.

    Args:
        args: settings of an iteration.
        play: settings of the loop.
        rows: number of prepared rows to train on.
        processes: number of processes that train together.
    """
    if args.max_steps > 0:
        return []
    lists = as_mapping("per_iteration", play.per_iteration) or {}
    # Later iterations may have more pairs, because of `history`, but never fewer.
    an_epoch = steps_an_epoch(args, rows * args.num_generations, processes)
    epochs = min(lists.get("num_train_epochs") or [args.num_train_epochs])
    return _long_warmup(args, math.ceil(epochs * an_epoch), f"(an epoch has {an_epoch}, with {rows} rows)")


def _long_warmup(args: SPINConfig, steps: int, why: str) -> list[str]:
    schedule = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    # A value below 1 is a share of the steps, which is never too long.
    if schedule == "constant" or not 1 <= args.warmup_steps >= steps:
        return []
    return [
        f"`warmup_steps` is {args.warmup_steps:g}, but training ends after {steps} steps {why}: the learning rate never "
        "reaches `learning_rate`."
    ]
