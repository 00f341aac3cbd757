"""Settings of supervised training: TRL's `SFTConfig`, from the settings of an iteration and those named `sft_X` in a recipe.

SFT first (`start: sft`) trains θ_0 from the given model. It shares the settings of an iteration, such as batch size and
precision, but has a learning rate, schedule and length of its own: those that `sft_X` sets, or else `SFTConfig`'s defaults.
"""

from __future__ import annotations

import functools
import math
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
from .traits import OF_PREFERENCES, OF_SFT_PACE, SET_BY_SFT, SFT_PREFIX

if TYPE_CHECKING:
    from .iteration import SPINConfig
    from .loop import SelfPlayConfig

GIVEN, SFT_FIRST = "given", "sft"
"""Values of `start`: θ_0 is the given model, or is trained from it with SFT."""

SEEN_OR_NOT = ("all", "seen", "unseen")
"""Values of `self_play_prompts`: the prompts that self-play uses, by whether SFT has trained on them."""

NLL = "nll"
"""Name of the negative log-likelihood per token that the best point of SFT is chosen by."""

_EXACT_ATTENTION = ("flash_attention_2", "flash_attention_3", "kernels-community/")
"""Attention implementations that keep the rows of a packed sequence apart."""


@dataclass
class SupervisedConfig(SFTConfig):
    """TRL's `SFTConfig` with `on_nan`, as in an iteration.

    Args:
        on_nan: What to do at a loss or gradient that is not finite.
    """

    on_nan: str = "stop"


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
            raise RecipeError(f"Unknown setting {named!r}{nearest(named, [f'{SFT_PREFIX}{one}' for one in known])}")
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
    return _shared(args, {}, frozenset())


def sft_first_config(args: SPINConfig, play: SelfPlayConfig, *, measures: bool) -> SupervisedConfig:
    """Return the settings of SFT first: those of `sft_args`, and the others of an iteration.

    Args:
        args: settings of an iteration.
        play: settings of the loop.
        measures: whether there are held-out rows, by whose NLL the best point is chosen. It is measured after every epoch,
            or every `sft_eval_steps` steps.
    """
    values = check_sft_args(play.sft_args)
    config = _shared(args, values, OF_SFT_PACE)
    by_steps = values.get("eval_steps") is not None
    config.save_strategy = SaveStrategy.STEPS if by_steps else SaveStrategy.EPOCH
    config.eval_strategy = IntervalStrategy(config.save_strategy.value) if measures else IntervalStrategy.NO
    config.save_steps = values["eval_steps"] if by_steps else config.save_steps
    config.save_total_limit = 2 if measures else 1  # the newest and the best
    config.load_best_model_at_end, config.metric_for_best_model = measures, f"eval_{NLL}"
    config.greater_is_better = False
    config.restore_callback_states_from_checkpoint = True  # or early stopping would forget its patience
    return config


def _shared(args: SPINConfig, values: Mapping[str, Any], own: frozenset[str]) -> SupervisedConfig:
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


def against_sft(args: SPINConfig, play: SelfPlayConfig) -> list[str]:
    """Return the conflicts between SFT first and the other settings."""
    values = check_sft_args(play.sft_args)
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


def sft_epochs(play: SelfPlayConfig) -> float:
    """Return the number of epochs of SFT first, if `sft_max_steps` does not set the number of steps."""
    return float(check_sft_args(play.sft_args).get("num_train_epochs", 3.0))


def sft_steps(args: SPINConfig, play: SelfPlayConfig, rows: int, processes: int) -> int:
    """Return the number of gradient steps of SFT first.

    Args:
        args: settings of an iteration.
        play: settings of the loop.
        rows: number of rows that SFT trains on.
        processes: number of processes that train together.
    """
    values = check_sft_args(play.sft_args)
    if values.get("max_steps", -1) > 0:
        return int(values["max_steps"])
    size, accumulated = (
        values.get(name, getattr(args, name))
        for name in ("per_device_train_batch_size", "gradient_accumulation_steps")
    )
    an_epoch = max(math.ceil(math.ceil(rows / (size * processes)) / accumulated), 1)
    return math.ceil(sft_epochs(play) * an_epoch)
