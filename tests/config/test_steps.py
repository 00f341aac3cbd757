"""Steps are counted as Trainer takes them."""

import pytest

from spin_trl import SPINConfig
from spin_trl.config.steps import gradient_steps, nearest_step, steps_an_epoch


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


@pytest.mark.parametrize(
    ("settings", "rows", "processes", "epochs", "steps"),
    [
        ({}, 12, 1, 2.0, 6),  # 3 batches of 4
        ({}, 12, 1, 0.1 * 3, 1),
        ({}, 12, 1, 0.49, 1),  # 1.47 steps
        ({}, 12, 1, 0.51, 2),
        ({}, 12, 1, 0.01, 1),  # never none
        ({}, 13, 2, 1.3, 3),  # 2 batches on each process, and 0.6 of one
        # 5 micro-batches, so steps end after 2, 4 and 5 of them.
        ({"gradient_accumulation_steps": 2}, 20, 1, 0.88, 2),  # 4.4 micro-batches
        ({"gradient_accumulation_steps": 2}, 20, 1, 0.92, 3),  # 4.6
        ({"gradient_accumulation_steps": 2}, 20, 1, 2.5, 7),  # 2.5
        ({"gradient_accumulation_steps": 2}, 20, 1, 1.99, 6),
        ({"dataloader_drop_last": True}, 15, 1, 1.4, 4),
        ({}, 1, 8, 5.4, 5),
    ],
)
def test_training_for_a_number_of_epochs_ends_at_the_nearest_step(settings, rows, processes, epochs, steps):
    known = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}
    args = SPINConfig(output_dir="out", use_cpu=True, bf16=False, **known | settings)
    assert nearest_step(args, rows, processes, epochs) == steps
