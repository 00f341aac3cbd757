"""SFT first has its own schedule, looks for its best point, and shares all other settings with an iteration."""

from typing import Any

import pytest

from spin_trl import SelfPlayConfig
from spin_trl.config.sft_first import against_sft, sft_first_config, sft_steps
from trainers import settings


def play(**values: Any) -> SelfPlayConfig:
    return SelfPlayConfig(start="sft", **values)


def test_sft_has_a_pace_of_its_own_and_shares_the_rest() -> None:
    """The defaults are SFTConfig's learning rate of 2e-5 and three epochs, whatever an iteration uses."""
    args = settings(num_train_epochs=1, per_device_train_batch_size=3, max_grad_norm=0.5, on_nan="skip")
    config = sft_first_config(args, play(sft_args={"warmup_steps": 2}), measures=True)
    assert (config.learning_rate, config.num_train_epochs, config.warmup_steps) == (2e-5, 3.0, 2)
    assert config.rate_setting == "sft_learning_rate"
    assert config.lr_scheduler_type == "linear"
    assert (config.per_device_train_batch_size, config.max_grad_norm, config.on_nan) == (3, 0.5, "skip")
    assert (config.loss_type, config.max_length, config.completion_only_loss) == ("nll", 64, True)


@pytest.mark.parametrize("name", ["activation_checkpointing", "gradient_checkpointing"])
def test_a_setting_has_its_effect_under_its_earlier_name_too(name: str) -> None:
    args = settings(activation_checkpointing=True)
    assert not sft_first_config(args, play(sft_args={name: False}), measures=True).activation_checkpointing
    assert sft_first_config(args, play(), measures=True).activation_checkpointing


def test_the_best_point_is_looked_for_after_every_epoch_or_number_of_steps() -> None:
    args = settings()
    by_epoch = sft_first_config(args, play(), measures=True)
    assert (by_epoch.eval_strategy, by_epoch.save_strategy, by_epoch.load_best_model_at_end) == (
        "epoch",
        "epoch",
        True,
    )
    by_steps = sft_first_config(args, play(sft_args={"eval_steps": 5}), measures=True)
    assert (by_steps.eval_strategy, by_steps.save_strategy) == ("steps", "steps")
    assert (by_steps.eval_steps, by_steps.save_steps) == (5, 5)
    blind = sft_first_config(args, play(), measures=False)
    assert (blind.eval_strategy, blind.load_best_model_at_end) == ("no", False)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"start": "given", "sft_args": {"seed": 3}, "sft_share": 0.5}, ("`sft_seed`", "`sft_share`", "`start: sft`")),
        ({"start": "given", "self_play_prompts": "seen"}, ("`self_play_prompts`",)),
        ({"self_play_prompts": "unseen"}, ("`self_play_prompts: unseen`", "`sft_share`")),
        ({"sft_args": {"packing": True}}, ("`sft_packing`", "`attn_implementation: flash_attention_2`")),
    ],
)
def test_what_contradicts_sft_first_is_named(values: dict[str, Any], named: tuple[str, ...]) -> None:
    (found,) = against_sft(settings(), SelfPlayConfig(**{"start": "sft", **values}))
    assert all(name in found for name in named)


def test_packing_is_exact_with_flash_attention_and_whole_rows() -> None:
    args = settings(model_init_kwargs={"attn_implementation": "flash_attention_2"})
    assert against_sft(args, play(sft_args={"packing": True})) == []
    (found,) = against_sft(args, play(sft_args={"packing": True, "packing_strategy": "wrapped"}))
    assert "`sft_packing_strategy`" in found


def test_the_number_of_steps_by_hand() -> None:
    """10 rows in batches of 3 on one process are 4 batches, or 2 steps an epoch with two batches per step; 2.5 epochs
    are 5 steps.
    """
    args = settings(per_device_train_batch_size=3, gradient_accumulation_steps=2)
    assert sft_steps(args, play(sft_args={"num_train_epochs": 2.5}), 10, 1) == 5
    assert sft_steps(args, play(sft_args={"max_steps": 7}), 10, 1) == 7
    assert sft_steps(args, play(sft_args={"per_device_train_batch_size": 5}), 10, 2) == 3
