"""Settings of DPO on top (`then_dpo`), which trains finished models of a run further on preference pairs.

It shares the settings of an iteration, such as batch size and precision, but has a loss, a learning rate, a schedule and a
length of its own: those that `dpo_X` sets, or else `DPOConfig`'s defaults.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from transformers.trainer_utils import SaveStrategy
from trl import DPOConfig

from .checks import as_mapping
from .dpo import ITERATION_NAME, OF_BASE, OF_DPO
from .iteration import SPINConfig
from .steps import gradient_steps
from .traits import DPO_PREFIX, OF_DPO_PACE, SFT_FIRST
from .trl_args import set_too

if TYPE_CHECKING:
    from .loop import SelfPlayConfig


def against_dpo(args: SPINConfig, play: SelfPlayConfig, *, has_pairs: bool) -> list[str]:
    """Return the conflicts between DPO on top and the other settings.

    Args:
        args: settings of an iteration.
        play: settings of the loop.
        has_pairs: whether there are preference pairs to train on.
    """
    if not play.then_dpo:
        named = [f"{DPO_PREFIX}{name}" for name in dpo_values(play)]
        named += [
            name for name, is_set in {"dpo_name": has_pairs, "dpo_max": play.dpo_max is not None}.items() if is_set
        ]
        return [f"{', '.join(f'`{name}`' for name in named)}: used only with `then_dpo`."] if named else []
    found = []
    if not has_pairs:
        found.append("`then_dpo` needs preference pairs to train on: name them with `dpo_name`.")
    if OF_BASE in play.then_dpo and play.start != SFT_FIRST:
        found.append(
            "`then_dpo: base` needs `start: sft`: without it, the given model is the start (`then_dpo: start`)."
        )
    for name in play.then_dpo:
        number = ITERATION_NAME.fullmatch(name)
        # A smoke run has fewer iterations than its recipe says.
        if number is not None and int(number[1]) >= play.num_iterations and not play.smoke:
            found.append(f"`then_dpo: {name}`: the last iteration of the run is iteration-{play.num_iterations - 1}.")
    values = dpo_values(play)
    if values.get("save_strategy") == SaveStrategy.BEST:
        found.append("`dpo_save_strategy: best`: DPO has no dataset to evaluate on. The run measures its result.")
    weights, losses = values.get("loss_weights"), values.get("loss_type") or ["sigmoid"]
    if weights is not None and len(weights) != len(losses):
        found.append(f"`dpo_loss_weights` has {len(weights)} numbers for {len(losses)} losses (`dpo_loss_type`).")
    return found


def named_iterations(play: SelfPlayConfig) -> list[int]:
    """Return the iterations (0-based) that `then_dpo` names."""
    return [int(number[1]) for name in play.then_dpo or () if (number := ITERATION_NAME.fullmatch(name))]


def dpo_values(play: SelfPlayConfig) -> dict[str, Any]:
    """Return the settings of DPOConfig that `dpo_X` sets, by name without the prefix. They were checked with the loop's."""
    return as_mapping(OF_DPO.argument, play.dpo_args) or {}


def dpo_config(args: SPINConfig, play: SelfPlayConfig) -> SPINConfig:
    """Return the settings of DPO on top: those of `dpo_args`, its own pace, and all others of an iteration.

    Args:
        args: settings of an iteration.
        play: settings of the loop.
    """
    values = dpo_values(play)
    own, usual = (
        DPOConfig(args.output_dir, use_cpu=args.use_cpu, bf16=args.bf16, fp16=args.fp16, **given)
        for given in (values, {})
    )
    config = copy.copy(args)
    for name in {*OF_DPO_PACE, *values, *set_too(own, usual)}:
        setattr(config, name, getattr(own, name))
    config.opponent_mix = 0.0
    config.push_to_hub = False  # the run pushes its models
    return config


def dpo_steps(args: SPINConfig, play: SelfPlayConfig, pairs: int, processes: int) -> int:
    """Return the number of gradient steps of DPO on top of one model.

    Args:
        args: settings of an iteration.
        play: settings of the loop.
        pairs: number of preference pairs.
        processes: number of processes that train together.
    """
    return gradient_steps(dpo_config(args, play), pairs, processes)
