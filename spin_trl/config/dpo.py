"""Settings of DPO on top (`then_dpo`), which trains finished models of a run further on preference pairs.

It shares the settings of an iteration, such as batch size and precision, but has a loss, a learning rate, a schedule and a
length of its own: those that `dpo_X` sets, or else `DPOConfig`'s defaults.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from transformers.trainer_utils import SaveStrategy
from trl import DPOConfig

from ..errors import RecipeError, nearest
from ..objectives.registry import losses_of_trl
from .checks import Bounds, Choices, as_mapping, check_setting
from .iteration import TRL_SETTINGS, SPINConfig
from .steps import gradient_steps
from .traits import DPO_PREFIX, OF_DPO_PACE, SET_BY_DPO, SFT_FIRST
from .trl_args import TrlArgs

if TYPE_CHECKING:
    from .loop import SelfPlayConfig

OF_BEST, OF_LAST, OF_START, OF_BASE = ORIGINS = ("best", "last", "start", "base")
"""Values of `then_dpo` in addition to the names of iterations: the models that DPO starts from."""

_ITERATION = re.compile(r"iteration-(\d+)")

OF_DPO = TrlArgs(DPOConfig, DPO_PREFIX, "DPO", SET_BY_DPO)
"""The settings of DPOConfig that a recipe may set as `dpo_X`."""


def check_dpo_args(values: Any) -> dict[str, Any]:
    """Check the settings of DPO on top, and convert them to their types; arguments and errors as for [`TrlArgs.check`]."""
    checked = OF_DPO.check(values)
    for name, value in checked.items():
        allowed = TRL_SETTINGS.get(name)
        if isinstance(value, str if isinstance(allowed, Choices) else int | float) and isinstance(
            allowed, Bounds | Choices
        ):
            check_setting(f"{DPO_PREFIX}{name}", value, allowed)
    losses, known = checked.get("loss_type", []), losses_of_trl()
    for loss in [losses] if isinstance(losses, str) else losses:
        if known and loss not in known:
            raise RecipeError(
                f"`{DPO_PREFIX}loss_type` is {loss!r}, which is not a loss of DPOTrainer{nearest(loss, known)} Known are "
                f"{', '.join(known)}."
            )
    if checked.get("num_train_epochs", 1) == 0 and checked.get("max_steps", -1) <= 0:
        raise RecipeError(
            f"`{DPO_PREFIX}num_train_epochs` is 0, so DPO trains nothing. Leave out `then_dpo`, or raise it."
        )
    return checked


def check_origins(names: Sequence[str]) -> None:
    """Raise if a value of `then_dpo` can't name a model of a run.

    Raises:
        RecipeError: if it is neither an iteration's name nor one of [`ORIGINS`], or is there twice.
    """
    for name in names:
        if name not in ORIGINS and _ITERATION.fullmatch(name) is None:
            raise RecipeError(
                f"`then_dpo` has {name!r}, which is no model of a run{nearest(name, [*ORIGINS, 'iteration-0'])} Possible "
                f"are {', '.join(ORIGINS)} and the iterations (iteration-0, ...)."
            )
        if names.count(name) > 1:
            raise RecipeError(f"`then_dpo` has {name!r} twice.")


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
        number = _ITERATION.fullmatch(name)
        if number is not None and int(number[1]) >= play.num_iterations:
            found.append(f"`then_dpo: {name}`: the last iteration of the run is iteration-{play.num_iterations - 1}.")
    values = dpo_values(play)
    if values.get("save_strategy") == SaveStrategy.BEST:
        found.append("`dpo_save_strategy: best`: DPO has no dataset to evaluate on. The run measures its result.")
    weights, losses = values.get("loss_weights"), dpo_config(args, play).losses
    if weights is not None and len(weights) != len(losses):
        found.append(f"`dpo_loss_weights` has {len(weights)} numbers for {len(losses)} losses (`dpo_loss_type`).")
    return found


def named_iterations(play: SelfPlayConfig) -> list[int]:
    """Return the iterations (0-based) that `then_dpo` names."""
    return [int(number[1]) for name in play.then_dpo or () if (number := _ITERATION.fullmatch(name))]


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
    own = DPOConfig(args.output_dir, use_cpu=args.use_cpu, bf16=args.bf16, fp16=args.fp16, **values)
    config = copy.copy(args)
    for name in {*OF_DPO_PACE, *values}:
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
