"""Steps are counted as Trainer takes them."""

import pytest

from spin_trl import SPINConfig
from spin_trl.config.steps import gradient_steps, steps_an_epoch


@pytest.mark.parametrize(
    ("settings", "pairs", "processes", "an_epoch", "steps"),
    [
        ({}, 12, 1, 3, 9),  # 3 batches of 4, three epochs
        ({}, 13, 1, 4, 12),
        ({}, 13, 2, 2, 6),
        ({"gradient_accumulation_steps": 2}, 13, 1, 2, 6),
        ({"dataloader_drop_last": True}, 15, 1, 3, 9),
        ({"num_train_epochs": 0.5}, 12, 1, 3, 2),
        ({"max_steps": 5}, 12, 1, 3, 5),
        ({}, 1, 8, 1, 3),
    ],
)
def test_steps_are_those_that_trainer_takes(settings, pairs, processes, an_epoch, steps):
    known = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "num_train_epochs": 3}
    args = SPINConfig(output_dir="out", use_cpu=True, bf16=False, **known | settings)
    assert steps_an_epoch(args, pairs, processes) == an_epoch
    assert gradient_steps(args, pairs, processes) == steps
    one_epoch = args.max_steps if args.max_steps > 0 else an_epoch
    assert gradient_steps(args, pairs, processes, epochs=1) == one_epoch
