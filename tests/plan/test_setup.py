"""A plan uses the distribution over processes set by a recipe's accelerate configuration."""

import pytest

from messages import refused
from spin_trl.errors import PlanError
from spin_trl.plan.setup import Sharding, read_sharding


@pytest.mark.parametrize(
    ("config", "gpus", "expected"),
    [
        (None, None, Sharding()),
        (None, 4, Sharding("DDP", 4)),
        ({"distributed_type": "MULTI_GPU", "num_processes": 8}, 2, Sharding("DDP", 2)),
        (
            {
                "distributed_type": "DEEPSPEED",
                "num_processes": 8,
                "deepspeed_config": {"zero_stage": 2, "offload_optimizer_device": "cpu"},
            },
            None,
            Sharding("ZeRO-2", 8, offloads_optimizer=True),
        ),
        (
            {"distributed_type": "FSDP", "num_processes": 8, "fsdp_config": {"fsdp_activation_checkpointing": True}},
            None,
            Sharding("FSDP", 8, checkpoints=True),
        ),
    ],
)
def test_processes_are_those_of_the_accelerate_configuration(config, gpus, expected):
    assert read_sharding(config, gpus) == expected


@pytest.mark.parametrize("stage", ["a", None, [2], 7])
def test_a_stage_that_is_none_is_refused(stage):
    with refused(PlanError, "`zero_stage`"):
        read_sharding({"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stage": stage}})
