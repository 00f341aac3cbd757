"""DPO on top has its own loss and schedule, and shares all other settings with an iteration."""

from typing import Any

import pytest
from trl import DPOConfig

from spin_trl import SelfPlayConfig
from spin_trl.config.dpo_on_top import against_dpo, dpo_config, dpo_steps, named_iterations
from spin_trl.config.traits import OF_DPO_PACE
from trainers import settings


def play(**values: Any) -> SelfPlayConfig:
    return SelfPlayConfig(**{"then_dpo": ["best"], **values})


def test_dpo_has_a_loss_and_a_pace_of_its_own_and_shares_the_rest() -> None:
    """Its learning rate is DPOConfig's 1e-6, its beta 0.1 and its length three epochs, whatever an iteration uses."""
    args = settings(
        learning_rate=1e-2,
        num_train_epochs=1,
        loss_type=["space"],
        per_device_train_batch_size=3,
        on_nan="skip",
    )
    config = dpo_config(args, play(dpo_args={"beta": 0.3, "max_grad_norm": 0.5}))
    assert (config.learning_rate, config.num_train_epochs, config.beta) == (1e-6, 3.0, 0.3)
    assert (config.losses, config.lr_scheduler_type) == (["sigmoid"], "linear")
    assert (config.per_device_train_batch_size, config.max_grad_norm, config.on_nan) == (3, 0.5, "skip")
    assert config.max_length == args.max_length == 64
    assert (args.learning_rate, args.losses) == (1e-2, ["space"])  # unchanged


@pytest.mark.parametrize("name", ["activation_checkpointing", "gradient_checkpointing"])
def test_a_setting_has_its_effect_under_its_earlier_name_too(name: str) -> None:
    args = settings(activation_checkpointing=True)
    assert not dpo_config(args, play(dpo_args={name: False})).activation_checkpointing
    assert dpo_config(args, play()).activation_checkpointing


@pytest.mark.parametrize(
    ("values", "has_pairs", "named"),
    [
        ({}, False, ("`then_dpo`", "`dpo_name`")),
        ({"then_dpo": None, "dpo_args": {"beta": 0.2}, "dpo_max": 3}, True, ("`dpo_beta`", "`dpo_name`", "`dpo_max`")),
        ({"then_dpo": ["base"]}, True, ("`then_dpo: base`", "`start: sft`")),
        ({"then_dpo": ["iteration-3"]}, True, ("`then_dpo: iteration-3`", "iteration-2")),
        ({"dpo_args": {"save_strategy": "best"}}, True, ("`dpo_save_strategy: best`",)),
        ({"dpo_args": {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0]}}, True, ("`dpo_loss_weights`",)),
    ],
)
def test_what_contradicts_dpo_is_named(values: dict[str, Any], has_pairs: bool, named: tuple[str, ...]) -> None:
    (found,) = against_dpo(settings(), play(**values), has_pairs=has_pairs)
    assert all(name in found for name in named)


def test_without_dpo_nothing_is_asked_for() -> None:
    assert against_dpo(settings(), SelfPlayConfig(), has_pairs=False) == []
    assert against_dpo(settings(), play(start="sft", then_dpo=["base", "iteration-2"]), has_pairs=True) == []


def test_the_number_of_steps_by_hand() -> None:
    """10 pairs in batches of 3 on one process are 4 batches, or 2 steps an epoch with two batches per step; 3 epochs
    are 6 steps.
    """
    args = settings(per_device_train_batch_size=3, gradient_accumulation_steps=2, num_train_epochs=1)
    assert dpo_steps(args, play(), 10, 1) == 6
    assert dpo_steps(args, play(dpo_args={"max_steps": 7}), 10, 1) == 7


def test_every_name_of_the_pace_is_a_setting_of_dpo() -> None:
    assert set(DPOConfig.__dataclass_fields__) >= OF_DPO_PACE


def test_the_iterations_that_dpo_starts_from() -> None:
    assert named_iterations(play(then_dpo=["best", "iteration-2", "start"])) == [2]


def test_a_smoke_run_takes_eight_pairs_whatever_the_recipe_says() -> None:
    """So do the plan and the run."""
    found = [SelfPlayConfig(smoke=smoke, dpo_max=100).most_pairs for smoke in (True, False)]
    assert found == [8, 100]
    assert SelfPlayConfig().most_pairs is None
