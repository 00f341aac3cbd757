"""Settings of DPO on top are checked: where it starts, and those passed to DPOConfig."""

from typing import Any

import pytest
from trl import DPOConfig

from messages import refused
from spin_trl import SelfPlayConfig
from spin_trl.config.dpo import check_dpo_args, check_origins
from spin_trl.errors import RecipeError


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"beta": -1}, ("`dpo_beta`", -1.0)),
        ({"loss_type": ["sigmod"]}, ("`dpo_loss_type`", "'sigmod'", "'sigmoid'")),
        ({"loss_type": ["space"]}, ("`dpo_loss_type`", "'space'")),
        ({"sync_ref_model": True}, ("`dpo_sync_ref_model`",)),
        ({"num_train_epochs": 0}, ("`dpo_num_train_epochs`", 0.0)),
        ("[1]", ("`dpo_args`",)),
    ],
)
def test_wrong_settings_are_named_as_in_the_recipe(values: Any, parts: tuple[Any, ...]) -> None:
    with refused(RecipeError, *parts):
        check_dpo_args(values)


def test_trls_own_config_may_be_given() -> None:
    given = DPOConfig("out", learning_rate=3e-5, beta=0.3, report_to="none", use_cpu=True, bf16=False)
    assert SelfPlayConfig(dpo_args=given).dpo_args == {"learning_rate": 3e-5, "beta": 0.3}


def test_where_dpo_may_start() -> None:
    check_origins(["best", "last", "start", "base", "iteration-12"])
    with refused(RecipeError, "'bset'", "'best'"):
        SelfPlayConfig(then_dpo=["bset"])
    with refused(RecipeError, "'iteration-'", "iteration-0"):
        check_origins(["iteration-"])
    with refused(RecipeError, "`then_dpo`", "'best'"):
        check_origins(["best", "start", "best"])
    assert SelfPlayConfig(then_dpo="best").then_dpo == ["best"]
