"""Settings of supervised training: TRL's `SFTConfig`, from those of an iteration and those named `sft_X` in a recipe."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, get_type_hints

from transformers import IntervalStrategy
from transformers.trainer_utils import SaveStrategy
from trl import SFTConfig

from ..errors import RecipeError, nearest
from .bounds import OF_RECIPES, POSSIBLE
from .checks import as_mapping, check_setting
from .kinds import typed
from .plain import differences_from_defaults
from .traits import OF_PREFERENCES, SET_BY_SFT, SFT_PREFIX

if TYPE_CHECKING:
    from .iteration import SPINConfig

SEEN_OR_NOT = ("all", "seen", "unseen")
"""Values of `self_play_prompts`: the prompts that self-play uses, by whether SFT has trained on them."""

NLL = "nll"
"""Name of the negative log-likelihood per token that the best point of SFT is chosen by."""


@dataclass
class SupervisedConfig(SFTConfig):
    """TRL's `SFTConfig` with `on_nan`, as in an iteration.

    Args:
        on_nan: What to do at a loss or gradient that is not finite.
        rate_setting: Name of the run's setting that the learning rate comes from, for messages.
    """

    on_nan: str = "stop"
    rate_setting: str = "learning_rate"


@functools.cache
def kinds_of_sft() -> dict[str, Any]:
    """Return the declared type of each of SFTConfig's settings that `sft_X` may set, by its name without the prefix."""
    hints = get_type_hints(SFTConfig)
    return {
        field.name: hints[field.name] for field in fields(SFTConfig) if field.init and field.name not in SET_BY_SFT
    }


def check_sft_args(values: Any) -> dict[str, Any]:
    """Check settings of SFTConfig and convert them to their types.

    Args:
        values: settings by name, without the prefix, as a mapping or JSON; or an `SFTConfig`, of which the settings that
            differ from its defaults are used, except those that the run sets itself.

    Raises:
        RecipeError: if a setting is unknown or set by the run itself, or its value is not allowed.
    """
    if isinstance(values, SFTConfig):
        values = {name: value for name, value in differences_from_defaults(values).items() if name in kinds_of_sft()}
    known, checked = kinds_of_sft(), dict[str, Any]()
    for name, value in (as_mapping("sft_args", values) or {}).items():
        named = f"{SFT_PREFIX}{name}"
        if name in SET_BY_SFT:
            raise RecipeError(f"`{named}` can't be set: the run sets SFTConfig's `{name}` itself.")
        if name not in known:
            raise RecipeError(
                f"Unknown setting {named!r} of SFT (`sft_args`){nearest(named, [f'{SFT_PREFIX}{one}' for one in known])}"
            )
        checked[name] = typed(named, value, known[name])
        allowed = {**POSSIBLE, **OF_RECIPES}.get(name)
        if allowed is not None and checked[name] is not None:
            check_setting(named, checked[name], allowed)
    if checked.get("num_train_epochs", 1) == 0 and checked.get("max_steps", -1) <= 0:
        raise RecipeError("`sft_num_train_epochs` is 0, so SFT trains nothing. Leave out `start: sft`, or raise it.")
    return checked


def supervised_config(args: SPINConfig) -> SupervisedConfig:
    """Return the settings of an iteration for supervised training at the same pace.

    Args:
        args: settings of an iteration.
    """
    return as_supervised(args, {}, frozenset())


def as_supervised(args: SPINConfig, values: Mapping[str, Any], own: frozenset[str]) -> SupervisedConfig:
    """Return an SFTConfig with these values, and an iteration's for all other settings except `own`."""
    config = SupervisedConfig(
        args.output_dir, **{"use_cpu": args.use_cpu, "bf16": args.bf16, "fp16": args.fp16, **values}
    )
    for field in fields(SupervisedConfig):
        if field.name not in {*values, *own, *OF_PREFERENCES} and hasattr(args, field.name):
            setattr(config, field.name, getattr(args, field.name))
    config.completion_only_loss, config.remove_unused_columns = True, False
    config.eval_strategy, config.save_strategy = IntervalStrategy.NO, SaveStrategy.NO
    return config
