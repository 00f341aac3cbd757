"""Settings of SFT first (`start: sft`), which trains θ_0 from the given model.

It shares the settings of an iteration, such as batch size and precision, but has a learning rate, schedule and length of its
own: those that `sft_X` sets, or else `SFTConfig`'s defaults.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from transformers import IntervalStrategy
from transformers.trainer_utils import SaveStrategy
from trl import SFTConfig

from .checks import as_mapping
from .sft import NLL, SEEN_OR_NOT, SupervisedConfig, as_supervised
from .steps import gradient_steps
from .traits import OF_SFT_PACE, SFT_FIRST, SFT_PREFIX

if TYPE_CHECKING:
    from .iteration import SPINConfig
    from .loop import SelfPlayConfig

_EXACT_ATTENTION = ("flash_attention_2", "flash_attention_3", "kernels-community/")
"""Attention implementations that keep the rows of a packed sequence apart."""


def sft_first_config(args: SPINConfig, play: SelfPlayConfig, *, measures: bool) -> SupervisedConfig:
    """Return the settings of SFT first: those of `sft_args`, and the others of an iteration.

    Args:
        args: settings of an iteration.
        play: settings of the loop.
        measures: whether there are held-out rows, by whose NLL the best point is chosen. It is measured after every epoch,
            or every `sft_eval_steps` steps.
    """
    values = sft_values(play)
    config = as_supervised(args, values, OF_SFT_PACE)
    by_steps = values.get("eval_steps") is not None
    config.save_strategy = SaveStrategy.STEPS if by_steps else SaveStrategy.EPOCH
    config.eval_strategy = IntervalStrategy(config.save_strategy.value) if measures else IntervalStrategy.NO
    config.save_steps = values["eval_steps"] if by_steps else config.save_steps
    config.save_total_limit = 2 if measures else 1  # the newest and the best
    config.load_best_model_at_end, config.metric_for_best_model = measures, f"eval_{NLL}"
    config.greater_is_better, config.rate_setting = False, f"{SFT_PREFIX}learning_rate"
    config.restore_callback_states_from_checkpoint = True  # or early stopping would forget its patience
    return config


def against_sft(args: SPINConfig, play: SelfPlayConfig) -> list[str]:
    """Return the conflicts between SFT first and the other settings."""
    values = sft_values(play)
    if play.start != SFT_FIRST:
        others = {"sft_share": 1.0, "sft_use_peft": None, "sft_patience": None, "self_play_prompts": SEEN_OR_NOT[0]}
        named = [f"{SFT_PREFIX}{name}" for name in values]
        named += [name for name, default in others.items() if getattr(play, name) != default]
        return [f"{', '.join(f'`{name}`' for name in named)}: used only with `start: sft`."] if named else []
    found = []
    if play.sft_share == 1 and play.self_play_prompts == "unseen":
        found.append(
            "`self_play_prompts: unseen` leaves no prompts, since SFT sees all of them. Set `sft_share` below 1."
        )
    if values.get("packing"):
        attention = str(args.model_kwargs.get("attn_implementation") or "the model's default")
        if not attention.startswith(_EXACT_ATTENTION):
            found.append(
                "`sft_packing` needs `attn_implementation: flash_attention_2` (or 3): with "
                f"{attention}, the rows of a packed sequence would see each other."
            )
        if values.get("packing_strategy", "bfd") != "bfd":
            found.append("`sft_packing_strategy` must be bfd: the others cut rows in two.")
        if args.max_length is None:
            found.append("`sft_packing` needs `max_length`, the length of the packed sequences.")
    return found


def sft_values(play: SelfPlayConfig) -> dict[str, Any]:
    """Return the settings of SFTConfig that `sft_X` sets, by name without the prefix. They were checked with the loop's."""
    return as_mapping("sft_args", play.sft_args) or {}


def sft_epochs(play: SelfPlayConfig) -> float:
    """Return the number of epochs of SFT first, if `sft_max_steps` does not set the number of steps."""
    return float(sft_values(play).get("num_train_epochs", SFTConfig.num_train_epochs))


def sft_steps(args: SPINConfig, play: SelfPlayConfig, rows: int, processes: int) -> int:
    """Return the number of gradient steps of SFT first.

    Args:
        args: settings of an iteration.
        play: settings of the loop.
        rows: number of rows that SFT trains on.
        processes: number of processes that train together.
    """
    paced = copy.copy(args)
    for name, value in {
        "max_steps": SFTConfig.max_steps,
        "num_train_epochs": sft_epochs(play),
        **sft_values(play),
    }.items():
        setattr(paced, name, value)
    return gradient_steps(paced, rows, processes)
