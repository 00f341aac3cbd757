"""Settings of supervised training: TRL's `SFTConfig`, from those of an iteration and those named `sft_X` in a recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from transformers import IntervalStrategy
from transformers.trainer_utils import SaveStrategy
from trl import SFTConfig

from .traits import OF_PREFERENCES, SET_BY_SFT, SFT_PREFIX
from .trl_args import TrlArgs, set_too

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


OF_SFT = TrlArgs(SFTConfig, SFT_PREFIX, "SFT", SET_BY_SFT)
"""The settings of SFTConfig that a recipe may set as `sft_X`."""


def check_sft_args(values: Any) -> dict[str, Any]:
    """Check the settings of SFT first, and convert them to their types; arguments and errors as for [`TrlArgs.check`]."""
    return OF_SFT.check(values)


def supervised_config(args: SPINConfig) -> SupervisedConfig:
    """Return the settings of an iteration for supervised training at the same pace.

    Args:
        args: settings of an iteration.
    """
    return as_supervised(args, {}, frozenset())


def as_supervised(args: SPINConfig, values: Mapping[str, Any], own: frozenset[str]) -> SupervisedConfig:
    """Return an SFTConfig with these values, and an iteration's for all other settings except `own`."""
    shared: dict[str, Any] = {"use_cpu": args.use_cpu, "bf16": args.bf16, "fp16": args.fp16}
    config = SupervisedConfig(args.output_dir, **{**shared, **values})
    named = values.keys() | set_too(config, SupervisedConfig(args.output_dir, **shared))
    for field in fields(SupervisedConfig):
        if field.name not in {*named, *own, *OF_PREFERENCES} and hasattr(args, field.name):
            setattr(config, field.name, getattr(args, field.name))
    config.completion_only_loss, config.remove_unused_columns = True, False
    config.eval_strategy, config.save_strategy = IntervalStrategy.NO, SaveStrategy.NO
    return config
